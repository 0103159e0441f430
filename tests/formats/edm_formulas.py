"""EDM's and EDM2's networks and preconditionings a second time, from the papers' formulas, in float64.

A state dict under official names, the constructor's arguments, and functions; no module of diffrep. `maps` collects
what the official blocks give, under their official names.
"""

import math

import torch
from torch import Tensor

State = dict[str, Tensor]


def convolved(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Same-size convolution as a sum over shifted images."""
    size = weight.shape[-1]
    height, width = x.shape[-2:]
    padded = torch.zeros(*x.shape[:2], height + size - 1, width + size - 1, dtype=x.dtype)
    start = size // 2
    padded[..., start : start + height, start : start + width] = x
    out = sum(
        torch.einsum("bchw,oc->bohw", padded[..., i : i + height, j : j + width], weight[:, :, i, j])
        for i in range(size)
        for j in range(size)
    )
    return out if bias is None else out + bias[:, None, None]


def layer(state: State, name: str, x: Tensor) -> Tensor:
    weight, bias = state[f"{name}.weight"], state.get(f"{name}.bias")
    if weight.ndim == 4:
        return convolved(x, weight, bias)
    return x @ weight.T + (0 if bias is None else bias)


def group_norm(state: State, name: str, x: Tensor, eps: float) -> Tensor:
    b, c, h, w = x.shape
    groups = x.reshape(b, min(32, c // 4), -1)
    centered = groups - groups.mean(-1, keepdim=True)
    unit = centered / (centered.square().mean(-1, keepdim=True) + eps).sqrt()
    return unit.reshape(b, c, h, w) * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def attended(x: Tensor, heads: int) -> Tensor:
    """x (B, 3C, H, W) with rows (head, channel, {q, k, v}) -> (B, C, H, W)."""
    b, rows, h, w = x.shape
    q, k, v = x.reshape(b, heads, rows // 3 // heads, 3, h * w).unbind(3)
    weights = torch.einsum("bnci,bncj->bnij", q, k) / math.sqrt(q.shape[2])
    return torch.einsum("bnij,bncj->bnci", weights.softmax(-1), v).reshape(b, rows // 3, h, w)


def halved(x: Tensor, taps: list[float], border: int = 0) -> Tensor:
    """Every other value of the filtered image; `border` pixels at each side belong to the image already."""
    line = torch.tensor(taps, dtype=x.dtype) / sum(taps)
    for dim in (-1, -2):
        x = x.movedim(dim, -1)
        pad = (len(taps) - 1) // 2 - border
        x = torch.nn.functional.pad(x, (pad, pad))
        count = (x.shape[-1] - len(taps)) // 2 + 1
        x = torch.stack([(x[..., 2 * i : 2 * i + len(taps)] * line).sum(-1) for i in range(count)], -1).movedim(-1, dim)
    return x


def doubled(x: Tensor, taps: list[float]) -> Tensor:
    """Each pixel spreads the filter, twice over, onto an image of twice the size."""
    line = 2 * torch.tensor(taps, dtype=x.dtype) / sum(taps)
    for dim in (-1, -2):
        x = x.movedim(dim, -1)
        size, pad = x.shape[-1], (len(taps) - 1) // 2
        wide = torch.zeros(*x.shape[:-1], 2 * size + len(taps), dtype=x.dtype)
        for i in range(size):
            wide[..., 2 * i : 2 * i + len(taps)] += x[..., i : i + 1] * line
        x = wide[..., pad : pad + 2 * size].movedim(-1, dim)
    return x


def waves(facts: dict, state: State, noise: Tensor, song: bool) -> Tensor:
    """Sines and cosines; frequencies and phases rounded to float32, as the program does."""
    width = facts["model_channels"] * facts.get("channel_mult_noise", 1)
    if "map_noise.freqs" in state:
        frequencies = (2 * math.pi * state["map_noise.freqs"].float()).float()
    else:
        steps = torch.arange(width // 2, dtype=torch.float32)
        frequencies = (1 / 10000) ** (steps / (width // 2 - song))
    phase = (noise.float()[:, None] * frequencies).double()
    return torch.cat([phase.sin(), phase.cos()] if song else [phase.cos(), phase.sin()], 1)


def edm_block(
    state: State, name: str, x: Tensor, emb: Tensor, song: bool, taps: list[float], heads: int | None = None
) -> Tensor:
    eps, gain = (1e-6, math.sqrt(0.5)) if song else (1e-5, 1.0)
    resample = {"down": halved, "_up": doubled}.get(name[-4:] if name.endswith("down") else name[-3:])
    h = silu(group_norm(state, f"{name}.norm0", x, eps))
    shortcut = x
    if resample:
        h, shortcut = resample(h, taps), resample(x, taps)
    h = layer(state, f"{name}.conv0", h)
    time = layer(state, f"{name}.affine", emb)[:, :, None, None]
    if song:
        h = silu(group_norm(state, f"{name}.norm1", h + time, eps))
    else:
        scale, shift = time.chunk(2, 1)
        h = silu(shift + group_norm(state, f"{name}.norm1", h, eps) * (scale + 1))
    h = layer(state, f"{name}.conv1", h)
    if f"{name}.skip.weight" in state:
        shortcut = layer(state, f"{name}.skip", shortcut)
    x = (h + shortcut) * gain
    if f"{name}.qkv.weight" in state:
        rows = layer(state, f"{name}.qkv", group_norm(state, f"{name}.norm2", x, eps))
        x = (layer(state, f"{name}.proj", attended(rows, heads or 1)) + x) * gain
    return x


def edm_network(
    facts: dict, state: State, x: Tensor, noise: Tensor, labels: Tensor, maps: dict | None = None
) -> Tensor:
    """SongUNet (where `embedding_type` is a fact) or DhariwalUNet; labels (B, label_dim) one-hot or zero."""
    song, maps = "embedding_type" in facts, {} if maps is None else maps
    taps = facts.get("resample_filter", [1, 1])
    emb = waves(facts, state, noise, song)
    if song and facts["label_dim"]:
        emb = emb + layer(state, "map_label", labels * math.sqrt(facts["label_dim"]))
    emb = layer(state, "map_layer1", silu(layer(state, "map_layer0", emb)))
    if not song and facts["label_dim"]:
        emb = emb + labels @ state["map_label.weight"].T
    emb = silu(emb)

    def run(name: str, h: Tensor) -> Tensor:
        heads = 1 if song else max(1, state[f"{name}.conv1.weight"].shape[0] // 64)
        maps[name] = edm_block(state, name, h, emb, song, taps, heads)
        return maps[name]

    sizes = [facts["img_resolution"] >> level for level in range(len(facts["channel_mult"]))]
    top = f"{sizes[0]}x{sizes[0]}"
    pyramid, skips = x, [layer(state, f"enc.{top}_conv", x)]
    for level, size in enumerate(sizes):
        if level:
            skips.append(run(f"enc.{size}x{size}_down", skips[-1]))
        if level and facts.get("encoder_type") == "residual":
            name, border = f"enc.{size}x{size}_aux_residual", (len(taps) - 1) // 2
            wide = torch.nn.functional.pad(pyramid, [border] * 4)
            summed = halved(convolved(wide, state[f"{name}.weight"]), taps, border)
            pyramid = skips[-1] = (skips[-1] + summed + state[f"{name}.bias"][:, None, None]) * math.sqrt(0.5)
        for i in range(facts["num_blocks"]):
            skips.append(run(f"enc.{size}x{size}_block{i}", skips[-1]))
    h = skips[-1]
    for size in reversed(sizes):
        for part in ("in0", "in1") if size == sizes[-1] else ("up",):
            h = run(f"dec.{size}x{size}_{part}", h)
        for i in range(facts["num_blocks"] + 1):
            h = run(f"dec.{size}x{size}_block{i}", torch.cat([h, skips.pop()], 1))
    norm, conv = (f"dec.{top}_aux_norm", f"dec.{top}_aux_conv") if song else ("out_norm", "out_conv")
    return layer(state, conv, silu(group_norm(state, norm, h, 1e-6 if song else 1e-5)))


def unit(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return x / (1e-4 + x.square().mean(dims, keepdim=True).sqrt())


def mp_layer(state: State, name: str, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
    weight = state[f"{name}.weight"]
    fan = weight[0].numel()
    norms = weight.flatten(1).norm(dim=1).reshape(-1, *[1] * (weight.ndim - 1))
    # a snapshot's gains are float16, and the program divides them so
    scale = (gain.half() / math.sqrt(fan)).double() if isinstance(gain, Tensor) else gain / math.sqrt(fan)
    used = scale * weight / (1e-4 + norms / math.sqrt(fan))
    return convolved(x, used) if weight.ndim == 4 else x @ used.T


def mixed(a: Tensor, b: Tensor, t: float) -> Tensor:
    return ((1 - t) * a + t * b) / math.sqrt((1 - t) ** 2 + t**2)


def joined(a: Tensor, b: Tensor, t: float) -> Tensor:
    factor = math.sqrt((a.shape[1] + b.shape[1]) / ((1 - t) ** 2 + t**2))
    return torch.cat([a * factor * (1 - t) / math.sqrt(a.shape[1]), b * factor * t / math.sqrt(b.shape[1])], 1)


def edm2_block(facts: dict, state: State, name: str, x: Tensor, emb: Tensor) -> Tensor:
    x = halved(x, [1, 1]) if name.endswith("down") else doubled(x, [1, 1]) if name.endswith("up") else x
    skip = f"{name}.conv_skip.weight" in state
    if name.startswith("enc"):
        x = unit(mp_layer(state, f"{name}.conv_skip", x) if skip else x, (1,))
    h = mp_layer(state, f"{name}.conv_res0", silu(x) / 0.596)
    h = h * (1 + mp_layer(state, f"{name}.emb_linear", emb, state[f"{name}.emb_gain"]))[:, :, None, None]
    h = mp_layer(state, f"{name}.conv_res1", silu(h) / 0.596)
    if skip and name.startswith("dec"):
        x = mp_layer(state, f"{name}.conv_skip", x)
    x = mixed(x, h, 0.3)
    if f"{name}.attn_qkv.weight" in state:
        b, c, height, width = x.shape
        heads = c // facts.get("channels_per_head", 64)
        rows = mp_layer(state, f"{name}.attn_qkv", x).reshape(b, heads, c // heads, 3, -1)
        h = attended(unit(rows, (2,)).reshape(b, 3 * c, height, width), heads)
        x = mixed(x, mp_layer(state, f"{name}.attn_proj", h), 0.3)
    return x.clamp(-256, 256)


def edm2_network(
    facts: dict, state: State, x: Tensor, noise: Tensor, labels: Tensor, maps: dict | None = None
) -> Tensor:
    """EDM2's U-Net; labels (B, label_dim) one-hot or zero."""
    maps = {} if maps is None else maps
    phase = noise[:, None] * state["emb_fourier.freqs"] + state["emb_fourier.phases"]
    emb = mp_layer(state, "emb_noise", math.sqrt(2) * phase.cos())
    if facts["label_dim"]:
        emb = mixed(emb, mp_layer(state, "emb_label", labels * math.sqrt(facts["label_dim"])), 0.5)
    emb = silu(emb) / 0.596

    def run(name: str, h: Tensor) -> Tensor:
        maps[name] = edm2_block(facts, state, name, h, emb)
        return maps[name]

    sizes = [facts["img_resolution"] >> level for level in range(len(facts["channel_mult"]))]
    skips = [mp_layer(state, f"enc.{sizes[0]}x{sizes[0]}_conv", torch.cat([x, torch.ones_like(x[:, :1])], 1))]
    for level, size in enumerate(sizes):
        for part in [*(["down"] if level else []), *(f"block{i}" for i in range(facts["num_blocks"]))]:
            skips.append(run(f"enc.{size}x{size}_{part}", skips[-1]))
    h = skips[-1]
    for size in reversed(sizes):
        for part in ("in0", "in1") if size == sizes[-1] else ("up",):
            h = run(f"dec.{size}x{size}_{part}", h)
        for i in range(facts["num_blocks"] + 1):
            h = run(f"dec.{size}x{size}_block{i}", joined(h, skips.pop(), 0.5))
    return mp_layer(state, "out_conv", h, state["out_gain"])


def iddpm_sigmas(steps: int = 1000) -> Tensor:
    """u_0 > ... > u_M = 0 from alpha-bar(j) = sin^2(pi j / (2 M 1.008)) (Karras et al. 2022, appendix C.3)."""
    u = [0.0] * (steps + 1)
    squared = [math.sin(0.5 * math.pi * j / steps / 1.008) ** 2 for j in range(steps + 1)]
    for j in range(steps, 0, -1):
        u[j - 1] = math.sqrt((u[j] ** 2 + 1) / max(squared[j - 1] / squared[j], 0.001) - 1)
    return torch.tensor(u, dtype=torch.float64)


def coefficients(name: str, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """c_skip, c_out, c_in, c_noise of Karras et al. 2022, table 1, at sigma (B,)."""
    one = torch.ones_like(sigma)
    if name == "EDMPrecond" or name == "Precond":
        spread = (sigma**2 + 0.25).sqrt()
        return 0.25 / spread**2, sigma * 0.5 / spread, 1 / spread, sigma.log() / 4
    if name == "VEPrecond":
        return one, sigma, one, (sigma / 2).log()
    c_in = 1 / (sigma**2 + 1).sqrt()
    if name == "VPPrecond":
        single = sigma.float()  # as the program computes it
        time = ((0.1**2 + 2 * 19.9 * (1 + single**2).log()).sqrt() - 0.1) / 19.9
        return one, -sigma, c_in, 999 * time.double()
    nearest = (sigma[:, None] - iddpm_sigmas()).abs().argmin(1)
    return one, -sigma, c_in, (999 - nearest).double()
