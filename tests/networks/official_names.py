"""State-dict names of the official programs, in their files' order, beside ours.

Each function lists (official name, our name) for one network. The order matters: the programs' check values fill
tensors by their position in the file. Shapes differ where the program has 1x1 convolutions for our linear layers.
"""

from collections.abc import Iterator

from diffrep.networks import UNet
from diffrep.networks.blocks import Attention, Downsample, ResBlock, Upsample
from diffrep.networks.unet import Block

Names = list[tuple[str, str]]
Table = dict[str, str]

DDAE_RES = {
    "norm1": "norm1",
    "conv1": "conv1",
    "norm2": "norm2",
    "conv2.1": "conv2",
    "shortcut": "shortcut",
    "time_emb.1": "time",
}
DDAE_ATTENTION = {"norm": "norm", "projection": "qkv", "output": "out"}
ADM_RES = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "shortcut",
}
ADM_ATTENTION = {"norm": "norm", "qkv": "qkv", "proj_out": "out"}


def ddae(network: UNet) -> Names:
    """DDAE's U-Net (spec/ddae.md 2.2.5): layouts ddpm and ddpmpp."""
    parts = {"image_proj": "enc.1", "time_emb.aug_emb": "time.augment"}
    parts |= {"time_emb.lin1": "time.linear1", "time_emb.lin2": "time.linear2"}
    for i, ours in enumerate(f"enc.{k}" for k in range(2, len(network.enc) + 1)):
        parts |= _ddae_element(network, f"down.{i}", ours)
    parts |= _moved(DDAE_RES, "middle.res1", "mid.res1")
    parts |= _moved(DDAE_ATTENTION, "middle.attn", "mid.attention")
    parts |= _moved(DDAE_RES, "middle.res2", "mid.res2")
    for i, ours in enumerate(_decoder_in_order(network)):
        parts |= _ddae_element(network, f"up.{i}", ours)
    return _tensors(network, parts | {"norm": "head.norm", "final": "head.conv"})


def adm(network: UNet) -> Names:
    """guided-diffusion, improved-diffusion and PDAE (spec/pdae.md 2.1): layout adm."""
    parts = {"time_embed.0": "time.linear1", "time_embed.2": "time.linear2", "label_emb": "time.classes"}
    for k in range(1, len(network.enc) + 1):
        parts |= _adm_entry(network, f"input_blocks.{k - 1}", [f"enc.{k}"])
    parts |= _adm_entry(network, "middle_block", ["mid.res1", "mid.attention", "mid.res2"])
    for k in range(1, len(network.dec) + 1):
        modules = [f"dec.{k}"] + ([f"up.{k}"] if str(k) in network.up else [])
        parts |= _adm_entry(network, f"output_blocks.{k - 1}", modules)
    return _tensors(network, parts | {"out.0": "head.norm", "out.2": "head.conv"})


def _ddae_element(network: UNet, official: str, ours: str) -> Table:
    module = network.get_submodule(ours)
    if isinstance(module, Block):
        attention = _moved(DDAE_ATTENTION, f"{official}.attn", f"{ours}.attention") if module.attention else {}
        return _moved(DDAE_RES, f"{official}.res", f"{ours}.res") | attention
    if isinstance(module, ResBlock):
        return _moved(DDAE_RES, f"{official}.op", ours)
    return {f"{official}.conv": f"{ours}.conv"}


def _adm_entry(network: UNet, official: str, ours: list[str]) -> Table:
    flat = [name for path in ours for name in _halves(network, path)]
    parts: Table = {}
    for i, path in enumerate(flat):
        module = network.get_submodule(path)
        if isinstance(module, ResBlock):
            parts |= _moved(ADM_RES, f"{official}.{i}", path)
        elif isinstance(module, Attention):
            parts |= _moved(ADM_ATTENTION, f"{official}.{i}", path)
        elif isinstance(module, Downsample):
            parts[f"{official}.{i}.op"] = f"{path}.conv"
        elif isinstance(module, Upsample):
            parts[f"{official}.{i}.conv"] = f"{path}.conv"
        else:
            parts[f"{official}.{i}"] = path
    return parts


def _halves(network: UNet, path: str) -> Iterator[str]:
    module = network.get_submodule(path)
    if not isinstance(module, Block):
        yield path
        return
    yield f"{path}.res"
    if module.attention is not None:
        yield f"{path}.attention"


def _decoder_in_order(network: UNet) -> Iterator[str]:
    for k in network.dec:
        yield f"dec.{k}"
        if k in network.up:
            yield f"up.{k}"


def _moved(table: Table, official: str, ours: str) -> Table:
    return {f"{official}.{a}": f"{ours}.{b}" for a, b in table.items()}


def _tensors(network: UNet, parts: Table) -> Names:
    known = network.state_dict().keys()
    both = [(f"{a}.{kind}", f"{b}.{kind}") for a, b in parts.items() for kind in ("weight", "bias")]
    names = [(a, b) for a, b in both if b in known]
    assert {b for _, b in names} == set(known), set(known) - {b for _, b in names}
    return names
