"""Transformers as networks: official sizes, position tables, check values, taps that are maps."""

import json

import pytest
import torch
from torch import Tensor, nn

from diffrep import networks
from diffrep.formats.dit_tensors import official
from diffrep.networks.dit_blocks import Rotary, position_table
from tests.networks.fills import fill_like_ddae, wave

SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}
COUNTS = {
    "S": (32_865_056, 32_920_448, 33_142_016, 132),
    "B": (130_315_808, 130_426_496, 130_869_248, 132),
    "L": (457_840_672, 457_988_224, 458_578_432, 252),
    "XL": (674_834_720, 675_000_704, 675_664_640, 292),
}
SMALL = {
    "dit": {"layout": "dit", "classes": 11, "learns_variance": True},
    "dit-qk": {"layout": "dit", "classes": 11, "qk_norm": True},
    "lightningdit": {"layout": "lightningdit", "patch": 2, "classes": 11, "qk_norm": True},
    "uvit": {"layout": "uvit"},
    "uvit-classes": {"layout": "uvit", "classes": 11, "time_layers": True, "conv": False},
}


def small(name: str) -> networks.Network:
    """One network of every kind, with no tensor left at zero."""
    torch.manual_seed(0)
    outline = {"image_channels": 4, "size": 8, "width": 32, "depth": 4, "heads": 2}
    network = networks.build({**SMALL[name], **outline})
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return network.eval()


EVERY = pytest.mark.parametrize("name", SMALL)
X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
TIME = torch.tensor([0.3, 700.0])


def labels(name: str) -> Tensor | None:
    return torch.tensor([1, 10]) if "classes" in SMALL[name] else None


@pytest.mark.parametrize("size", SIZES)
def test_dits_have_the_official_size(size: str) -> None:
    width, depth, heads = SIZES[size]
    *counts, entries = COUNTS[size]
    for patch, count in zip((2, 4, 8), counts, strict=True):
        recipe = {"layout": "dit", "width": width, "depth": depth, "heads": heads, "patch": patch}
        with torch.device("meta"):
            network = networks.build({**recipe, "classes": 1001, "learns_variance": True})
        assert sum(p.numel() for p in network.parameters()) == count
        assert len(network.state_dict()) == entries
    table = {2: 98_304, 4: 24_576, 8: 6_144}
    if size == "S":
        assert all(position_table(384, (32 // p, 32 // p)).numel() == n for p, n in table.items())


@pytest.mark.parametrize(
    ("layout", "count", "entries"), [("lightningdit", 674_961_824, 351), ("uvit", 44_255_328, 164)]
)
def test_the_others_have_the_official_size(layout: str, count: int, entries: int) -> None:
    with torch.device("meta"):
        network = networks.build({"layout": layout, **({"classes": 1001} if layout == "lightningdit" else {})})
    assert sum(p.numel() for p in network.parameters()) == count
    assert len(network.state_dict()) == entries


def test_position_tables_are_the_official_ones() -> None:
    table = position_table(384, (16, 16))[0]
    assert float(table.double().sum()) == pytest.approx(44720.3385, abs=1e-3)
    assert table[1, [0, 1, 96, 97]].tolist() == pytest.approx(
        [0.84147096, 0.78859305, 0.54030228, 0.61491543], abs=1e-7
    )
    assert table[16, [192, 193]].tolist() == pytest.approx([0.84147096, 0.78859305], abs=1e-7)


def test_rotary_tables_turn_rows_then_columns_in_pairs() -> None:
    tables = Rotary(72, (16, 16))
    assert tables.cos.shape == (256, 72)
    for token, channel, place, j in ((17, 0, 1, 0), (35, 5, 2, 2), (35, 36, 3, 0), (250, 71, 10, 17)):
        angle = torch.tensor(place * 10000.0 ** (-2 * j / 36))
        assert float(tables.cos[token, channel]) == pytest.approx(float(angle.cos()), abs=1e-6)
        assert float(tables.sin[token, channel]) == pytest.approx(float(angle.sin()), abs=1e-6)


def official_order(depth: int) -> list[str]:
    """A DiT file's names in the file's order."""
    weights = ["x_embedder.proj", "t_embedder.mlp.0", "t_embedder.mlp.2"]
    names = ["pos_embed", *(f"{w}.{end}" for w in weights for end in ("weight", "bias"))]
    names.append("y_embedder.embedding_table.weight")
    parts = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "adaLN_modulation.1")
    names += [f"blocks.{i}.{part}.{end}" for i in range(depth) for part in parts for end in ("weight", "bias")]
    last = ("final_layer.linear", "final_layer.adaLN_modulation.1")
    return names + [f"{w}.{end}" for w in last for end in ("weight", "bias")]


def test_dit_s_2_gives_the_official_values() -> None:
    """spec/ddae.md 2.7: filled by position, the position table left as it is."""
    network = networks.build({"layout": "dit", "classes": 1001, "learns_variance": True}).eval()
    own = network.positions.clone()
    ours = {official(name): name for name in network.state_dict()}
    names = [(name, ours[name]) for name in official_order(12)]
    assert len(names) == len(network.state_dict())
    fill_like_ddae(network, names)
    network.positions.copy_(own)
    means = {}
    for k in (1, 6, 12):
        network.maps[str(k)].register_forward_hook(lambda m, i, o, k=k: means.update({k: o.double().mean().item()}))
    with torch.inference_mode():
        out = network(wave((2, 4, 32, 32), 0.013), torch.tensor([121.0, 0.0]), torch.tensor([1000, 7])).double()
    assert [out.mean().item(), out.std().item()] == pytest.approx([-0.0321824904, 0.517038901], abs=5e-6)
    assert [out.flatten()[0].item(), out.flatten()[-1].item()] == pytest.approx([1.37780404, 0.722492218], abs=1e-5)
    assert [means[1], means[6], means[12]] == pytest.approx([0.45358183, 0.45458927, 0.457647817], abs=5e-6)


@EVERY
def test_the_taps_table_is_what_comes_out(name: str) -> None:
    network, got = small(name), {}
    places = network.places((8, 8))
    for place in places:
        hook = network.get_submodule(place.module).register_forward_hook
        hook(lambda m, i, o, key=place.name: got.update({key: o}))
    with torch.inference_mode():
        out = network(X, TIME, labels(name))
    assert out.shape == (2, 8 if network.learns_variance else 4, 8, 8)
    blocks = 5 if name.startswith("uvit") else 4
    assert list(got) == [p.name for p in places] == ["time", *(f"block.{k}" for k in range(1, blocks + 1))]
    assert all(got[p.name].shape == (2, p.channels, *(p.resolution or ())) for p in places)
    assert places[2].resolution == (4, 4)
    assert "layer-1" in places[2].aliases
    assert ("transformer_blocks.1" in places[2].aliases) == ("dit" in str(network.config["layout"]))


@EVERY
def test_a_config_survives_json_and_builds_the_same_network(name: str) -> None:
    network = small(name)
    again = networks.build(json.loads(json.dumps(network.config))).eval()
    again.load_state_dict(network.state_dict())
    with torch.inference_mode():
        assert torch.equal(again(X, TIME, labels(name)), network(X, TIME, labels(name)))


@EVERY
def test_an_image_does_not_depend_on_its_batch_or_layout(name: str) -> None:
    network, y = small(name), labels(name)
    with torch.inference_mode():
        both = network(X, TIME, y)
        alone = network(X[1:].to(memory_format=torch.channels_last), TIME[1:], None if y is None else y[1:])
    assert torch.allclose(both[1:], alone, atol=1e-5)


@EVERY
def test_gradients_reach_every_parameter(name: str) -> None:
    network = small(name).train()
    network(X, TIME, labels(name)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in network.parameters())


def test_a_fresh_dit_starts_at_zero_and_its_blocks_as_the_identity() -> None:
    network = networks.build({"layout": "dit", "size": 8, "width": 32, "depth": 2, "heads": 2}).eval()
    maps = []
    for show in network.maps.values():
        show.register_forward_hook(lambda m, i, o: maps.append(o))
    assert not network(X, TIME).any()
    assert torch.equal(maps[0], maps[1])


def test_what_does_not_fit_is_refused() -> None:
    network = small("dit")
    with pytest.raises(ValueError, match="16 positions"):
        network(torch.zeros(1, 4, 16, 16), TIME[:1])
    with pytest.raises(ValueError, match="do not divide"):
        network(torch.zeros(1, 4, 7, 8), TIME[:1])
    with pytest.raises(ValueError, match="no classes"):
        small("uvit")(X, TIME, torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="cannot leave it out"):
        small("uvit-classes")(X, TIME)
    with pytest.raises(ValueError, match="heads"):
        networks.build({"layout": "dit", "heads": 5})
    with pytest.raises(ValueError, match="as many blocks"):
        networks.build({"layout": "uvit", "depth": 3})
