"""EDM's and EDM2's networks: official sizes, the golden value, taps, odd sizes, refusals."""

import json
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from diffrep import networks
from diffrep.continuous import EDMSchedule
from diffrep.denoiser import Conditioning, Denoiser, InputSpec
from diffrep.formats import edm_names
from diffrep.networks import edm_song
from diffrep.noise import NoiseLevel
from tests.networks.fills import wave

SONG = {
    "cifar10-vp": ({}, 55_733_891, 425),
    "cifar10-vp-cond": ({"classes": 10}, 55_735_299, 427),
    "cifar10-ve": (
        {"waves": "fourier", "noise_multiplier": 2, "resample_filter": [1, 3, 3, 1], "pyramid": True},
        56_397_827,
        432,
    ),
    "ffhq-vp": ({"multipliers": [1, 2, 2, 2], "attention": [False, False, True, False]}, 61_805_571, 553),
}
EDM2 = {
    64: 31_309_029,
    128: 124_713_253,
    192: 280_212_837,
    256: 497_807_781,
    320: 777_498_085,
    384: 1_119_283_749,
    448: 1_523_164_773,
}
LOGVAR = 128
"""EDM2's estimator of the loss's variance, a linear layer and two buffers, is no part of our network."""
SMALL = {
    "edm_song": {"channels": 16, "multipliers": [1, 2], "attention": [True, False], "blocks": 1, "classes": 3},
    "edm_dhariwal": {"channels": 64, "multipliers": [1, 2], "attention": [False, True], "blocks": 1, "classes": 3},
    "edm2": {"channels": 32, "multipliers": [1, 2], "attention": [False, True], "blocks": 1, "classes": 3},
    "ncsnpp": {
        "layout": "edm_song",
        "channels": 16,
        "multipliers": [1, 2],
        "attention": [False, True],
        "blocks": 1,
        "waves": "fourier",
        "resample_filter": [1, 3, 3, 1],
        "pyramid": True,
        "classes": 3,
    },
}


def on_paper(layout: str, **config: object) -> networks.Network:
    with torch.device("meta"):
        return networks.build({"layout": layout, **config})


def small(name: str) -> networks.Network:
    """One network of every kind, with no tensor left at zero."""
    torch.manual_seed(0)
    network = networks.build({"layout": name, "image_channels": 3, **SMALL[name]})
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


def with_filters(names: list[tuple[str, str]]) -> Iterator[tuple[str, str | None]]:
    """The official file's order: the filter of a resampling convolution is stored after its bias."""
    for official, ours in names:
        yield official, ours
        block, _, part = official.removesuffix(".bias").rpartition(".")
        if official.endswith(".bias") and part in ("conv0", "skip") and block.endswith(("_down", "_up")):
            yield f"{block}.{part}.resample_filter", None
        if "aux_residual.bias" in official:
            yield official.replace("bias", "resample_filter"), None


@pytest.mark.parametrize("name", SONG)
def test_ddpmpp_and_ncsnpp_have_the_official_size(name: str) -> None:
    config, parameters, entries = SONG[name]
    network = on_paper("edm_song", **config)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert len(list(with_filters(edm_names.edm(network, 32)))) == entries


def test_adm_has_the_official_size() -> None:
    network = on_paper("edm_dhariwal", classes=1000)
    assert sum(p.numel() for p in network.parameters()) == 295_899_267
    assert len(edm_names.edm(network, 64)) == 553 - 12  # 6 resampling blocks have two filters each


@pytest.mark.parametrize("channels", EDM2)
def test_edm2_has_the_official_size(channels: int) -> None:
    network = on_paper("edm2", classes=1000, channels=channels)
    assert sum(p.numel() for p in network.parameters()) == EDM2[channels] - LOGVAR
    assert len(edm_names.edm2(network, 64)) == 203 - 3


def test_golden_value_of_the_cifar_network() -> None:
    network = edm_song().eval()
    own = network.state_dict()
    for i, (official, ours) in enumerate(with_filters(edm_names.edm(network, 32))):
        if ours is not None:
            count = torch.arange(own[ours].numel(), dtype=torch.float64)
            one = 1.0 if official.endswith(".weight") and own[ours].ndim == 1 else 0.0
            own[ours].copy_((0.02 * torch.sin(0.1 * count + i) + one).reshape(own[ours].shape))
    denoiser = Denoiser(
        network,
        schedule=EDMSchedule(),
        input=InputSpec(3, 32),
        parameterization="edm",
        conditioning=Conditioning("log-sigma", scale=0.25),
    ).eval()
    with torch.inference_mode():
        out = denoiser(wave((2, 3, 32, 32), 0.013), NoiseLevel.from_sigma(torch.tensor([0.06, 2.0]))).x0
    found = [out.double().mean(), out.double().std(), out.flatten()[0], out.flatten()[-1]]
    assert [float(v) for v in found] == pytest.approx(
        [0.0204224912, 0.501688381, -0.00672516646, -0.0794865489], abs=5e-6
    )


def test_taps_of_the_cifar_network() -> None:
    places = on_paper("edm_song").places((32, 32))
    table = {p.name: (p.channels, p.resolution, p.attention, p.aliases) for p in places}
    assert len([name for name in table if name.startswith("dec.")]) == 15
    assert len([name for name in table if name.startswith("enc.")]) == 15
    assert table["dec.1"] == (256, (8, 8), False, ("dec.8x8_block0",))
    assert table["mid"] == (256, (8, 8), True, ("dec.8x8_in1",))
    assert table["mid.in0"] == (256, (8, 8), True, ("dec.8x8_in0",))
    assert table["up.5"] == (256, (16, 16), False, ("dec.16x16_up",))
    assert table["dec.7"] == (256, (16, 16), False, ("dec.16x16_block1",))
    assert table["dec.10"] == (256, (16, 16), True, ("dec.16x16_block4",))
    assert table["enc.7"] == (256, (16, 16), True, ("enc.16x16_block0",))
    assert table["dec.15"] == (256, (32, 32), False, ("dec.32x32_block4",))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_every_tap_has_the_size_that_the_table_says(name: str, size: tuple[int, int]) -> None:
    network, maps = small(name), {}
    places = network.places(size)
    assert len({p.name for p in places}) == len(places)
    for place in places:
        module = network.get_submodule(place.module)
        module.register_forward_hook(lambda m, i, out, key=place.name: maps.update({key: out}))
    with torch.inference_mode():
        out = network(torch.ones(2, 3, *size), torch.tensor([0.1, 0.5]), torch.tensor([0, 2]))
    assert out.shape == (2, 3, *size)
    assert list(maps) == [p.name for p in places]  # in the order of computing
    for place in places:
        shape = (2, place.channels, *(place.resolution or ()))
        assert tuple(maps[place.name].shape) == shape, place.name


@pytest.mark.parametrize("name", SMALL)
def test_a_label_left_out_is_a_row_of_zeros_and_a_label_matters(name: str) -> None:
    network = small(name)
    x, time = torch.ones(1, 3, 8, 8), torch.tensor([0.3])
    with torch.inference_mode():
        without, first, last = (network(x, time, y) for y in (None, torch.tensor([0]), torch.tensor([2])))
    assert not torch.allclose(without, first)
    assert not torch.allclose(first, last)


@pytest.mark.parametrize("name", SMALL)
def test_a_config_survives_json_and_builds_the_same_network(name: str) -> None:
    network = small(name)
    again = networks.build(json.loads(json.dumps(network.config)))
    assert again.config == network.config
    again.load_state_dict(network.state_dict())
    x, time = torch.ones(1, 3, 8, 8), torch.tensor([0.3])
    with torch.inference_mode():
        assert torch.equal(again.eval()(x, time), network(x, time))


@pytest.mark.parametrize("name", SMALL)
def test_gradients_reach_every_parameter(name: str) -> None:
    network = small(name)
    network(torch.ones(1, 3, 8, 8), torch.tensor([0.3]), torch.tensor([1])).square().sum().backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None and "augment" not in n]
    assert silent == []


def test_edm2_keeps_the_magnitude_of_what_goes_through_it() -> None:
    torch.manual_seed(0)
    network = networks.build({"layout": "edm2", "channels": 64, "multipliers": [1, 2], "attention": [False, True]})
    maps: dict[str, Tensor] = {}
    for place in network.places((16, 16))[1:]:
        module = network.get_submodule(place.module)
        module.register_forward_hook(lambda m, i, out, key=place.name: maps.update({key: out}))
    with torch.inference_mode():
        network(torch.randn(4, 4, 16, 16), torch.randn(4))
    magnitudes = {name: float(tap.square().mean().sqrt()) for name, tap in maps.items()}
    assert all(0.5 < value < 2 for value in magnitudes.values()), magnitudes


def test_labels_and_augmentation_that_have_no_place_are_refused() -> None:
    for layout in ("edm_song", "edm_dhariwal", "edm2"):
        network = networks.build({**SMALL[layout], "layout": layout, "image_channels": 3, "classes": None})
        with pytest.raises(ValueError, match="has no classes"):
            network(torch.ones(1, 3, 8, 8), torch.ones(1), torch.tensor([0]))
    plain = networks.build({"layout": "edm_song", **SMALL["edm_song"], "augment_dim": 0})
    with pytest.raises(ValueError, match="augment_dim=0"):
        plain(torch.ones(1, 3, 8, 8), torch.ones(1), augment=torch.ones(1, 9))


@pytest.mark.parametrize("config", [{"waves": "square"}, {"resample_filter": [1, 2, 1]}, {"resample_filter": []}])
def test_unknown_waves_and_filters_are_refused(config: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"square|taps"):
        networks.build({"layout": "edm_song", **SMALL["edm_song"], **config})
