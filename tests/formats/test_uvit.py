"""U-ViT files: a second forward in float64, the two kinds of time, what is asked for."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffrep.autoencoder import ShiftAutoencoder
from diffrep.errors import FormatError, InputError, UsageError
from diffrep.formats import load, save
from diffrep.tap_features import TapFeatures
from diffrep.taps import read
from tests.formats.oracles import check_known_image
from tests.formats.test_dit_files import close
from tests.formats.transformer_files import batch, open_file, random_state, uvit_shapes
from tests.formats.transformer_formulas import uvit

FACTS = {"num_heads": 2, "time": "continuous"}
LATENT = {"num_heads": 2, "time": "discrete", "null_class": 10}
VARIANTS = {
    "cifar10": ({}, FACTS),
    "latent": ({"channels": 4, "rows": 11, "conv": False}, LATENT),
    "with time layers": ({"time_layers": True, "bias": True, "rows": 5}, {**FACTS, "null_class": False}),
}
X = batch(channels=3)


def write(path: Path, data: object) -> Path:
    torch.save(data, path)
    return path


@pytest.mark.parametrize("name", VARIANTS)
def test_the_second_forward_agrees(tmp_path: Path, name: str) -> None:
    kind, facts = VARIANTS[name]
    state = random_state(uvit_shapes(**kind))
    denoiser = open_file(write(tmp_path / "nnet_ema.pth", state), facts)
    x, y = batch(channels=kind.get("channels", 3)), torch.tensor([3, 4, 0]) if "rows" in kind else None
    times = [0, 417, 998] if facts["time"] == "discrete" else [n / 999 for n in (1, 418, 999)]
    level = denoiser.schedule.at(times)
    expected, kept = uvit(state, x, torch.tensor([1.0, 418.0, 999.0]), y, 2)
    with torch.no_grad():
        prediction = denoiser(x, level, y=y)
        maps = read(denoiser, x, level, ["in_blocks.0", "in_blocks.1", "mid_block", "out_blocks.0", "layer-4"], y=y)
    close(prediction.eps, expected)
    for tap, tokens in zip(maps.values(), kept, strict=True):
        close(tap.flatten(2).transpose(1, 2), tokens)


def test_features_leave_the_extra_tokens_out(tmp_path: Path) -> None:
    state = random_state(uvit_shapes(channels=4, rows=11, conv=False))
    denoiser = open_file(write(tmp_path / "nnet_ema.pth", state), LATENT)
    x, level = batch(), denoiser.schedule.at(50)
    found = next(iter(TapFeatures(denoiser, ["mid_block"], level)(x, noise=x.flip(0)).values()))
    alpha, sigma = level.like(x)
    _, kept = uvit(state, alpha * x + sigma * x.flip(0), torch.full((3,), 51.0), torch.full((3,), 10), 2)
    close(found, kept[2].mean(1))


def test_continuous_time_is_the_sde(tmp_path: Path) -> None:
    denoiser = open_file(write(tmp_path / "nnet_ema.pth", random_state(uvit_shapes())), FACTS)
    seen: list[Tensor] = []
    denoiser.network.time.register_forward_pre_hook(lambda m, i: seen.append(i[0]))
    for t in (1e-4, 0.01, 0.5, 1.0):
        integral = 0.1 * t + (20 - 0.1) * t * t / 2
        level = denoiser.schedule.at(t)
        assert float(level.alpha**2) == pytest.approx(math.exp(-integral), rel=1e-12)
        with torch.no_grad():
            denoiser(X[:1], level)
        assert seen[-1].tolist() == pytest.approx([999 * t], rel=1e-6)
    assert (denoiser.sampling.clip, denoiser.input.latent, denoiser.labels) == (False, False, None)
    path = denoiser.schedule.path(10, rule=denoiser.sampling.rule)
    assert denoiser.schedule.time_of(path[0]).item() == pytest.approx(1.0)
    assert denoiser.schedule.time_of(path[-1]).item() == pytest.approx(1e-4)
    assert path.log_snr.diff().std() < 1e-9


def test_discrete_time_is_stable_diffusions(tmp_path: Path) -> None:
    state = random_state(uvit_shapes(channels=4, rows=11))
    denoiser = open_file(write(tmp_path / "nnet_ema.pth", state), LATENT)
    betas = [(0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * k / 999) ** 2 for k in range(1000)]
    assert float(denoiser.schedule.alphas_cumprod[0]) == pytest.approx(1 - betas[0], rel=1e-12)
    assert float(denoiser.schedule.alphas_cumprod[-1]) == pytest.approx(math.prod(1 - b for b in betas), rel=1e-9)
    assert (denoiser.labels.num_classes, denoiser.labels.null) == (10, 10)
    assert (denoiser.sampling.clip, denoiser.input.latent) == (False, True)


def test_time_counts_from_one(tmp_path: Path) -> None:
    denoiser = open_file(write(tmp_path / "nnet_ema.pth", random_state(uvit_shapes())), FACTS)
    x0, times = batch(channels=3, count=100).double(), torch.arange(0, 999, 10)

    def answer(x: Tensor, n: Tensor) -> Tensor:
        abar = denoiser.schedule.at((n / 999).reshape(-1)).alpha.reshape(n.shape) ** 2
        return (x - abar.sqrt() * x0) / (1 - abar).sqrt()

    check_known_image(denoiser, answer, x0, (times + 1) / 999)
    state = random_state(uvit_shapes(channels=4, rows=11))
    latent = open_file(write(tmp_path / "nnet_ema.pth", state), LATENT)
    x0, table = batch(channels=4, count=100).double(), latent.schedule.alphas_cumprod

    def discrete(x: Tensor, n: Tensor) -> Tensor:
        abar = table[n.long() - 1]
        return (x - abar.sqrt() * x0) / (1 - abar).sqrt()

    check_known_image(latent, discrete, x0, times)


def test_a_class_cannot_be_left_out_and_sizes_are_fixed(tmp_path: Path) -> None:
    state = random_state(uvit_shapes(channels=4, rows=11))
    path = write(tmp_path / "nnet_ema.pth", state)
    with_null, without = open_file(path, LATENT), open_file(path, {**LATENT, "null_class": False})
    x, level = batch(), with_null.schedule.at(50)
    assert with_null(x, level).eps.isfinite().all()
    for denoiser in (with_null, without):
        with pytest.raises(UsageError, match="cannot leave it out"):
            denoiser(x, level, y="none")
    with pytest.raises(UsageError, match="no null class") as caught:
        without(x, level)
    assert caught.value.hint == "pass y=labels"
    for other in ((4, 16), (16, 16)):
        with pytest.raises(InputError, match=r"takes \(B, 4, 8, 8\)"):
            with_null(torch.zeros(1, 4, *other), level)


def test_it_is_saved_and_carries_an_autoencoder(tmp_path: Path) -> None:
    denoiser = open_file(write(tmp_path / "nnet_ema.pth", random_state(uvit_shapes())), FACTS)
    level = denoiser.schedule.at(0.4)
    again = load(save(denoiser, tmp_path / "model"))
    with torch.no_grad():
        assert torch.equal(again(X, level).eps, denoiser(X, level).eps)
        model = ShiftAutoencoder.fresh(denoiser, code_dim=8)
        assert torch.equal(model.at(model.encode(X))(X, level).eps, denoiser(X, level).eps)


@pytest.mark.parametrize(
    ("rows", "facts", "message"),
    [
        (None, {}, "num_heads, time"),
        (11, {"num_heads": 2}, "time, null_class"),
        (None, {**FACTS, "num_heads": 5}, "num_heads is 5"),
        (None, {**FACTS, "time": "sometimes"}, 'time is "sometimes"'),
        (None, {**FACTS, "embed_dim": 512}, "embed_dim = 32"),
        (None, {**FACTS, "depth": 7}, "depth = 4"),
        (None, {**FACTS, "mlp_ratio": 2}, "mlp_ratio = "),
        (None, {**FACTS, "qkv_bias": True}, "qkv_bias = False"),
        (None, {**FACTS, "mlp_time_embed": True}, "mlp_time_embed = False"),
        (None, {**FACTS, "skip": False}, "skip = True"),
        (None, {**FACTS, "conv": False}, "conv = True"),
        (None, {**FACTS, "num_classes": 10}, "num_classes = -1"),
        (None, {**FACTS, "null_class": 1000}, "no table of labels"),
        (11, {**FACTS, "null_class": 3}, "null_class is 3"),
        (11, {**FACTS, "null_class": True}, "null_class is True"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_refused(
    tmp_path: Path, rows: int | None, facts: dict[str, object], message: str
) -> None:
    path = write(tmp_path / "nnet_ema.pth", random_state(uvit_shapes(rows=rows)))
    with pytest.raises(FormatError, match=message):
        open_file(path, facts)


@pytest.mark.parametrize("change", ["pos_embed", "norm.bias", "out_blocks.1.skip_linear.weight"])
def test_broken_files_are_refused(tmp_path: Path, change: str) -> None:
    state = random_state(uvit_shapes())
    state[change] = torch.zeros(1, 16, 32)
    with pytest.raises(FormatError):
        open_file(write(tmp_path / "nnet_ema.pth", state), FACTS)


def test_the_program_cuts_an_odd_depth(tmp_path: Path) -> None:
    path = write(tmp_path / "nnet_ema.pth", random_state(uvit_shapes()))
    assert len(open_file(path, {**FACTS, "depth": 5}).taps) == 5
