"""The loop and its taps table: any size, any memory layout, each layout's own promises."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from diffrep import networks
from diffrep.networks import UNet, adm, ddpm, ddpmpp, multipliers_for, tiny
from diffrep.networks.blocks import Attention, Downsample, ResBlock, double, group_norm, halve

SMALL = {"channels": 32, "multipliers": (1, 2, 2), "attention": (False, True, False), "blocks": 1}


def small() -> dict[str, UNet]:
    """One network of every layout and dialect, with no tensor left at zero."""
    torch.manual_seed(0)
    made = {
        "ddpm": ddpm(**SMALL),
        "ddpm-right": ddpm(**SMALL, padding="right", head_groups=32, eps=1e-6),
        "ddpmpp": ddpmpp(**SMALL, head_width=16, augment_dim=9),
        "adm": adm(**SMALL, head_width=16, order="qkv", classes=10, learns_variance=True),
        "adm-conv": adm(**SMALL, heads=4, resampling="conv", scale_shift=False),
        "tiny": tiny(multipliers=(1, 2, 2), image_channels=3),
    }
    for network in made.values():
        for parameter in network.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.05)
    return {name: network.eval() for name, network in made.items()}


NETWORKS = small()
EVERY = pytest.mark.parametrize("name", NETWORKS)


def images(size: tuple[int, int], batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


TIME = torch.tensor([0.3, 700.0])


def run_with_taps(network: UNet, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The output, and what each place gave, in the order in which it came."""
    got: dict[str, Tensor] = {}

    def keep(name: str) -> None:
        module = network.get_submodule(module_of[name])
        handles.append(module.register_forward_hook(lambda m, i, o: got.update({name: o})))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    module_of = {place.name: place.module for place in network.places((x.shape[2], x.shape[3]))}
    for name in module_of:
        keep(name)
    with torch.inference_mode():
        out = network(x, TIME[: len(x)])
    for handle in handles:
        handle.remove()
    return out, got


@EVERY
@pytest.mark.parametrize("size", [(8, 8), (28, 28), (13, 9), (5, 16), (3, 1)])
def test_the_taps_table_is_what_comes_out(name: str, size: tuple[int, int]) -> None:
    network = NETWORKS[name]
    out, got = run_with_taps(network, images(size))
    assert out.shape == (2, 6 if network.learns_variance else 3, *size)
    assert list(got) == [place.name for place in network.places(size)]
    for place in network.places(size):
        if place.resolution or place.name == "time":
            assert got[place.name].shape == (2, place.channels, *(place.resolution or ()))
        else:
            assert got[place.name].shape[:2] == (2, place.channels)


@EVERY
def test_the_table_says_which_blocks_have_attention(name: str) -> None:
    network = NETWORKS[name]
    for place in network.places((8, 8)):
        has = any(isinstance(m, Attention) for m in network.get_submodule(place.module).modules())
        assert place.attention == has


@EVERY
def test_the_width_of_time_is_declared(name: str) -> None:
    network = NETWORKS[name]
    time, *rest = network.places((8, 8))
    assert (time.name, time.channels, time.resolution) == ("time", network.time_width, None)
    assert all(place.resolution for place in rest if place.name == place.module)


def test_parts_of_blocks_are_read_by_their_official_names() -> None:
    parts = {p.name: p.module for p in NETWORKS["adm"].places((16, 16)) if p.name != p.module}
    assert (parts["middle_block.1"], parts["output_blocks.2.1"]) == ("mid.attention", "dec.3.attention")


@EVERY
def test_channels_last_gives_the_same(name: str) -> None:
    network, x = NETWORKS[name], images((13, 10)).requires_grad_()
    y = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    plain, strided = network(x, TIME), network(y, TIME)
    assert torch.allclose(plain, strided, atol=2e-5)
    plain.square().sum().backward()
    strided.square().sum().backward()
    assert torch.allclose(x.grad, y.grad, rtol=1e-4, atol=1e-3 * x.grad.abs().max())


@EVERY
def test_transposed_images_and_channels_last_weights_are_accepted(name: str) -> None:
    x = images((10, 13))
    turned = x.transpose(2, 3).contiguous().transpose(2, 3)
    network = networks.build(NETWORKS[name].config).eval()
    network.load_state_dict(NETWORKS[name].state_dict())
    with torch.inference_mode():
        expected = network(x, TIME)
        assert torch.allclose(network(turned, TIME), expected, atol=2e-5)
        assert torch.allclose(network.to(memory_format=torch.channels_last)(x, TIME), expected, atol=2e-5)


@EVERY
def test_an_image_does_not_depend_on_its_batch(name: str) -> None:
    x = images((8, 8))
    with torch.inference_mode():
        both, alone = NETWORKS[name](x, TIME), NETWORKS[name](x[1:], TIME[1:])
    assert torch.allclose(both[1:], alone, atol=1e-5)


@EVERY
def test_every_parameter_takes_part(name: str) -> None:
    network = NETWORKS[name]
    extras = {"y": torch.tensor([1, 2])} if network.time.classes else {}
    augment = torch.ones(2, 9) if network.time.augment else None
    network(images((8, 8)), TIME, **extras, augment=augment).square().sum().backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    network.zero_grad()
    assert idle == []


@EVERY
def test_random_numbers_come_only_from_dropout(name: str) -> None:
    before = torch.get_rng_state()
    run_with_taps(NETWORKS[name], images((8, 8)))
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_acts_in_training_only() -> None:
    network = tiny(dropout=0.5, zero_init=False, image_channels=3)
    x = images((8, 8))
    assert not torch.equal(network(x, TIME), network(x, TIME))
    network.eval()
    assert torch.equal(network(x, TIME), network(x, TIME))


def test_adm_and_tiny_start_at_zero() -> None:
    x = images((8, 8))
    for network in (adm(**SMALL), tiny(image_channels=3)):
        assert not network(x, TIME).any()
        blocks = [m for m in network.modules() if isinstance(m, ResBlock)]
        assert blocks
        assert not any(m.conv2.weight.any() for m in blocks)


# names of the official programs


def test_ddae_calls_decoder_blocks_out() -> None:
    aliases = {a: p.name for p in ddpm().places((32, 32)) for a in p.aliases}
    assert aliases == {f"out_{k}": f"dec.{k}" for k in range(1, 13)}
    resolutions = [p.resolution[0] for p in ddpmpp().places((32, 32)) if p.name.startswith("dec.") and p.resolution]
    assert resolutions == [8] * 5 + [16] * 5 + [32] * 5


def test_guided_diffusion_taps_an_output_block_after_its_up_sampler() -> None:
    places = {alias: place for place in NETWORKS["adm"].places((32, 32)) for alias in place.aliases}
    assert places["input_blocks.0"].name == "enc.1"
    assert places["middle_block"].name == "mid"
    assert (places["output_blocks.0"].name, places["output_blocks.0"].resolution) == ("dec.1", (8, 8))
    assert (places["output_blocks.1"].name, places["output_blocks.1"].resolution) == ("up.2", (16, 16))
    _, got = run_with_taps(NETWORKS["adm"], images((32, 32), 1))
    with torch.inference_mode():
        assert torch.equal(got["up.2"], NETWORKS["adm"].up["2"](got["dec.2"], got["time"]))


def test_decoder_names_do_not_include_up_samplers() -> None:
    names = [p.name for p in NETWORKS["adm"].places((8, 8)) if p.name.startswith(("enc.", "dec."))]
    assert names == [f"enc.{k}" for k in range(1, 7)] + [f"dec.{k}" for k in range(1, 7)]


# the tiny layout


@pytest.mark.parametrize("image_channels", [1, 2, 3])
@pytest.mark.parametrize("size", [4, 5, 8, 16, 28, 32])
def test_tiny_stops_at_4x4(size: int, image_channels: int) -> None:
    network = tiny(image_channels=image_channels, channels=16, multipliers=multipliers_for(size))
    heights = [p.resolution[0] for p in network.places((size, size)) if p.resolution]
    assert 4 <= min(heights) < 8
    assert network(torch.zeros(1, image_channels, size, size), TIME[:1]).shape == (1, image_channels, size, size)


def test_tiny_halves_28_three_times() -> None:
    heights = [p.resolution[0] for p in tiny(multipliers=multipliers_for(28)).places((28, 28)) if p.resolution]
    assert list(dict.fromkeys(heights)) == [28, 14, 7, 4]


@pytest.mark.parametrize("channels", [16, 32, 48, 80])
def test_tiny_groups_keep_four_channels(channels: int) -> None:
    norms = [m for m in tiny(channels=channels).modules() if isinstance(m, nn.GroupNorm)]
    assert all(m.num_channels // m.num_groups >= 4 for m in norms)


# parts


def test_groups_divide_the_channels() -> None:
    assert group_norm(96).num_groups == 32
    assert group_norm(16).num_groups == 16
    assert group_norm(144).num_groups == 24
    assert group_norm(96, least=4).num_groups == 24


@pytest.mark.parametrize("size", range(1, 12))
def test_down_and_up_agree_on_sizes(size: int) -> None:
    x = torch.arange(float(size * size)).reshape(1, 1, size, size).expand(1, 32, size, size)
    low = halve(x)
    assert low.shape[-1] == -(-size // 2)
    assert all(Downsample(32, padding)(x).shape == low.shape for padding in ("symmetric", "right"))
    assert double(low, (size, size)).shape == x.shape
    assert torch.equal(double(low, (size, size)), double(low)[..., :size, :size])


def test_halving_an_odd_image_averages_what_is_there() -> None:
    x = torch.tensor([[1.0, 3.0, 5.0], [5.0, 7.0, 9.0], [2.0, 4.0, 8.0]])[None, None]
    assert halve(x).tolist() == [[[[4.0, 7.0], [3.0, 8.0]]]]


def test_asymmetric_padding_is_right_and_below() -> None:
    down = Downsample(1, "right")
    nn.init.zeros_(down.conv.weight)
    nn.init.zeros_(down.conv.bias)
    down.conv.weight.data[0, 0, 0, 0] = 1.0  # upper left tap: reads pixel (2i, 2j)
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert down(x).tolist() == [[[[0.0, 2.0], [8.0, 10.0]]]]


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_the_three_orders_are_permutations_of_each_other(heads: int) -> None:
    c, d = 16, 16 // heads
    made = {order: Attention(c, heads, norm=group_norm, order=order) for order in ("heads", "qkv", "interleaved")}
    rows = torch.arange(3 * c)
    to_heads = {
        "heads": rows,
        "qkv": rows.reshape(3, heads, d).transpose(0, 1).reshape(-1),
        "interleaved": rows.reshape(heads, d, 3).permute(0, 2, 1).reshape(-1),
    }
    state = made["heads"].state_dict()
    x = torch.randn(2, c, 3, 5, generator=torch.Generator().manual_seed(0))
    expected = made["heads"](x)
    for order, attention in made.items():
        place = torch.argsort(to_heads[order])
        moved = {"qkv.weight": state["qkv.weight"][place], "qkv.bias": state["qkv.bias"][place]}
        attention.load_state_dict(state | moved)
        assert torch.allclose(attention(x), expected, atol=1e-6)


def test_attention_is_softmax_over_pixels() -> None:
    attention = Attention(8, 2, norm=lambda c: group_norm(c, groups=2))
    x = torch.randn(1, 8, 2, 3, generator=torch.Generator().manual_seed(0))
    q, k, v = attention.qkv(attention.norm(x).flatten(2).transpose(1, 2)).reshape(1, 6, 2, 3, 4).unbind(3)
    weights = torch.einsum("bnhd,bmhd->bhnm", q * 4**-0.25, k * 4**-0.25).softmax(-1)
    mixed = attention.out(torch.einsum("bhnm,bmhd->bnhd", weights, v).reshape(1, 6, 8))
    assert torch.allclose(attention(x), x + mixed.transpose(1, 2).reshape(x.shape), atol=1e-6)


# what is refused


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"layout": "ddpn"}, 'unknown layout "ddpn", known: ddpm, ddpmpp, adm, tiny'),
        ({}, 'unknown layout "None"'),
        ({"layout": "tiny", "chanels": 3}, 'has no argument "chanels", known: image_channels, channels'),
        ({"layout": "tiny", "channels": 24}, "channels is 24"),
        ({"layout": "ddpm", "multipliers": [1, 2]}, "2 multipliers but 4 attention flags"),
        ({"layout": "tiny", "blocks": 0}, "blocks is 0"),
        ({"layout": "adm", "head_width": 48}, "width 48 do not divide 512"),
        ({"layout": "adm", "heads": 5}, "5 attention heads do not divide"),
        ({"layout": "adm", "order": "new"}, 'order "new", known: heads, qkv, interleaved'),
        ({"layout": "adm", "resampling": "nearest"}, 'resampling "nearest", known: residual, conv'),
        ({"layout": "ddpm", "padding": "left"}, 'padding "left", known: symmetric, right'),
        ({"layout": "ddpm", "waves": "sin"}, 'waves "sin", known: cos-sin, sin-cos'),
    ],
)
def test_a_config_that_means_nothing_is_refused(config: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words.replace(".", r"\.")), torch.device("meta"):
        networks.build(config)


def test_labels_without_a_place_are_refused() -> None:
    with pytest.raises(ValueError, match="no classes"):
        NETWORKS["ddpm"](images((8, 8)), TIME, torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="augment_dim"):
        NETWORKS["ddpm"](images((8, 8)), TIME, augment=torch.zeros(2, 9))


def test_labels_left_out_leave_their_term_out() -> None:
    network, x = NETWORKS["ddpmpp"], images((8, 8))
    assert torch.equal(network(x, TIME), network(x, TIME, augment=torch.zeros(2, 9)))
    network = NETWORKS["adm"]
    labelled = [network(x, TIME, torch.tensor([k, k])) for k in range(3)]
    assert all(not torch.equal(a, b) for a, b in pairwise([network(x, TIME), *labelled]))
