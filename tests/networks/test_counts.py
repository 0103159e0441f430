"""Sizes of networks against the official programs' (spec/ddae.md 2.6, spec/pdae.md 2.6), built without memory."""

import json

import pytest
import torch

from diffrep import networks
from diffrep.formats.official_names import adm as adm_names
from diffrep.formats.official_names import ddae as ddae_names

GUIDED = {"layout": "adm", "learns_variance": True, "head_width": 64}

DDAE = {
    "ddpm": ({"layout": "ddpm"}, 35_746_307, 304),
    "ddpmpp": ({"layout": "ddpmpp"}, 56_524_291, 432),
    "ddpmpp_aug": ({"layout": "ddpmpp", "augment_dim": 9}, 56_525_443, 433),
    "tiny_imagenet": (
        {
            "layout": "ddpmpp",
            "channels": 192,
            "multipliers": [1, 2, 3, 4],
            "attention": [False, True, True, True],
            "blocks": 3,
            "head_width": 64,
        },
        281_400_003,
        None,
    ),
}
ADM = {
    "guided-64": (
        GUIDED
        | {"channels": 192, "multipliers": [1, 2, 3, 4], "attention": [False, True, True, True], "blocks": 3}
        | {"classes": 1000, "order": "qkv"},
        295_904_454,
        541,
    ),
    "guided-128": (
        GUIDED
        | {"channels": 256, "multipliers": [1, 1, 2, 3, 4], "attention": [False, False, True, True, True]}
        | {"classes": 1000, "head_width": None, "heads": 4},
        421_529_606,
        493,
    ),
    "guided-256": (
        GUIDED
        | {"channels": 256, "multipliers": [1, 1, 2, 2, 4, 4], "attention": [False] * 3 + [True] * 3}
        | {"classes": 1000},
        553_838_086,
        567,
    ),
    "guided-256-uncond": (
        GUIDED | {"channels": 256, "multipliers": [1, 1, 2, 2, 4, 4], "attention": [False] * 3 + [True] * 3},
        552_814_086,
        566,
    ),
    "guided-512": (
        GUIDED
        | {"channels": 256, "multipliers": [0.5, 1, 1, 2, 2, 4, 4], "attention": [False] * 4 + [True] * 3}
        | {"classes": 1000},
        558_997_638,
        645,
    ),
    "improved-cifar10": (
        {"layout": "adm", "learns_variance": True, "heads": 4, "resampling": "conv", "blocks": 3}
        | {"multipliers": [1, 2, 2, 2], "attention": [False, True, True, False]},
        52_546_438,
        446,
    ),
    "improved-imagenet64": (
        {"layout": "adm", "learns_variance": True, "heads": 4, "resampling": "conv", "blocks": 3}
        | {"multipliers": [1, 2, 3, 4], "attention": [False, False, True, True]},
        121_063_942,
        450,
    ),
    "pdae-128": ({"layout": "adm"}, 98_618_499, 432),
    "pdae-64": ({"layout": "adm", "attention": [False, False, True, False, False]}, 96_976_259, None),
    "pdae-64-narrow": (
        {
            "layout": "adm",
            "channels": 64,
            "multipliers": [1, 2, 4, 8],
            "attention": [False, False, True, False],
        },
        63_958_019,
        None,
    ),
    "pdae-mnist": (
        {"layout": "adm", "image_channels": 1, "channels": 64, "multipliers": [1, 2, 2, 4], "attention": [False] * 4},
        19_404_161,
        None,
    ),
}


def on_paper(config: dict[str, object]) -> networks.UNet:
    with torch.device("meta"):
        return networks.build(config)


@pytest.mark.parametrize("name", DDAE)
def test_ddae_networks_have_the_official_size(name: str) -> None:
    config, parameters, entries = DDAE[name]
    network = on_paper(config)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert entries in (None, len(network.state_dict()))
    assert len(ddae_names(network)) == len(network.state_dict())


@pytest.mark.parametrize("name", ADM)
def test_adm_networks_have_the_official_size(name: str) -> None:
    config, parameters, entries = ADM[name]
    network = on_paper(config)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert entries in (None, len(network.state_dict()))
    assert len(adm_names(network)) == len(network.state_dict())


def test_the_middle_block_of_ddae_has_the_official_size() -> None:
    assert sum(p.numel() for p in on_paper({"layout": "ddpm"}).mid.parameters()) == 2_888_704


def test_the_tiny_network_has_the_size_of_the_demonstration() -> None:
    assert sum(p.numel() for p in on_paper({"layout": "tiny"}).parameters()) == 755_009


@pytest.mark.parametrize("config", [config for config, *_ in [*DDAE.values(), *ADM.values()]])
def test_a_config_survives_json_and_builds_the_same_network(config: dict[str, object]) -> None:
    network = on_paper(config)
    again = on_paper(json.loads(json.dumps(network.config)))
    assert again.config == network.config
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in network.state_dict().items()}
