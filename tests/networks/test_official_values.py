"""Outputs and taps of the official programs' networks, filled by formula (spec/ddae.md 2.7, spec/pdae.md 2.7)."""

from itertools import accumulate

import pytest
import torch
from torch import Tensor, nn

from diffrep.formats import official_names
from diffrep.networks import UNet, adm, ddpm, ddpmpp
from diffrep.networks.blocks import ResBlock, sinusoid
from tests.networks.fills import fill_like_ddae, fill_like_pdae, wave


def outputs(network: nn.Module, names: list[str], *args: Tensor, **kwargs: Tensor) -> dict[str, Tensor]:
    """Run the network; what the named submodules returned, and the network itself under ""."""
    got: dict[str, Tensor] = {}

    def keep(name: str) -> None:
        handles.append(network.get_submodule(name).register_forward_hook(lambda m, i, o: got.update({name: o})))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    for name in ["", *names]:
        keep(name)
    with torch.inference_mode():
        network(*args, **kwargs)
    for handle in handles:
        handle.remove()
    return got


def ddae_like(network: UNet, names: list[str], **labels: Tensor) -> dict[str, Tensor]:
    fill_like_ddae(network, official_names.ddae(network))
    return outputs(network.eval(), names, wave((2, 3, 32, 32), 0.013), torch.tensor([0.011, 0.5]), **labels)


def summary(out: Tensor) -> list[float]:
    return [out.double().mean().item(), out.double().std().item(), *corners(out)]


def corners(out: Tensor) -> list[float]:
    return [out[0, 0, 0, 0].item(), out[1, 2, 31, 31].item(), out[0, 1, 15, 16].item()]


def averages(tap: Tensor) -> list[float]:
    mean = tap.mean((2, 3))
    return [*mean[0, :3].tolist(), mean[1, 0].item()]


def close(values: list[float], within: float = 5e-6) -> object:
    return pytest.approx(values, abs=within)


def test_ddae_ddpm() -> None:
    got = ddae_like(ddpm(), ["dec.1", "dec.6", "dec.7", "dec.12"])
    assert summary(got[""]) == close([0.0194927272, 0.0693435453, -0.0130820191, 0.0160555989, 0.1089807749])
    assert averages(got["dec.1"]) == close([0.7068347, -1.3977856, 1.1027043, 0.7062560])
    assert averages(got["dec.6"]) == close([0.1550652, -0.0453612, -0.0054798, 0.1548618])
    assert averages(got["dec.7"]) == close([0.3364149, -0.7209572, 0.5001740, 0.3413595])
    assert averages(got["dec.12"]) == close([0.0040871, 0.1964449, -0.0110120, 0.0053301])


def test_ddae_ddpmpp() -> None:
    got = ddae_like(ddpmpp(), ["dec.6", "dec.15"])
    assert summary(got[""]) == close([-0.0129358334, 0.1025862502, -0.0177287273, 0.0462051407, 0.0026969835])
    assert averages(got["dec.6"])[0] == pytest.approx(0.0683561, abs=5e-6)
    assert averages(got["dec.15"])[0] == pytest.approx(0.0227061, abs=5e-6)


def test_ddae_ddpmpp_with_augmentation_labels() -> None:
    labels = 0.1 * torch.arange(18.0).reshape(2, 9)
    got = ddae_like(ddpmpp(augment_dim=9), ["dec.7"], augment=labels)
    assert summary(got[""]) == close([-0.0203003503, 0.0619038662, -0.0109117478, 0.0509248786, -0.0635799021])
    assert averages(got["dec.7"])[0] == pytest.approx(0.3028511, abs=5e-6)


@pytest.mark.parametrize(
    ("order", "values"),
    [("heads", (0.000773708565, 0.367129183, 0.0192977637)), ("qkv", (0.000775422088, 0.367770131, 0.0190639943))],
)
def test_guided_diffusion_small(order: str, values: tuple[float, float, float]) -> None:
    network = adm(
        channels=64,
        multipliers=(1, 2, 3, 4),
        attention=(False, False, True, True),
        blocks=1,
        head_width=32,
        order=order,
        learns_variance=True,
    ).eval()
    fill_like_ddae(network, official_names.adm(network))
    out = outputs(network, [], wave((1, 3, 64, 64), 0.013), torch.tensor([90.0]))[""]
    assert [out.double().mean().item(), out.double().std().item(), out[0, 0, 0, 0].item()] == close([*values])


def pdae_positions(network: UNet, names: official_names.Names) -> list[int]:
    """Positions of the frozen network's tensors in PDAE's shift network, where parts of the shift stand between.

    After time_embed: label_emb, 2 tensors; after the middle block and after the output blocks: their shifted copies,
    with 2 tensors more in each residual block.
    """

    def copy_of(prefix: str, paths: list[str]) -> int:
        blocks = [m for p in paths for m in network.get_submodule(p).modules() if isinstance(m, ResBlock)]
        return sum(a.startswith(prefix) for a, _ in names) + 2 * len(blocks)

    gaps = {
        "input_blocks": 2,
        "output_blocks": copy_of("middle_block", ["mid"]),
        "out": copy_of("output_blocks", ["dec", "up"]),
    }
    parts = [official.split(".")[0] for official, _ in names]
    starts = [gaps[part] if i and part in gaps and parts[i - 1] != part else 0 for i, part in enumerate(parts)]
    return [i + skipped for i, skipped in enumerate(accumulate(starts), start=1)]


@pytest.mark.parametrize(
    ("order", "values"),
    [("heads", [0.6171471, 1.1794055, 1.4113272]), ("qkv", [0.6197072, 1.1798507, 1.4095320])],
)
def test_the_frozen_network_inside_pdae(order: str, values: list[float]) -> None:
    network = adm(channels=32, multipliers=(1, 2), attention=(False, True), blocks=1, heads=2, order=order).eval()
    names = official_names.adm(network)
    fill_like_pdae(network, names, pdae_positions(network, names))
    x = torch.sin(0.1 * torch.arange(2 * 3 * 8 * 8.0)).reshape(2, 3, 8, 8)  # in float32, as the values were made
    out = outputs(network, [], x, torch.tensor([0.0, 637.0]))[""]
    assert out[1, :, 3, 5].tolist() == close(values, 2e-6)
    if order == "heads":
        assert out.double().sum().item() == pytest.approx(47.168177, abs=1e-4)


def test_sinusoid_of_pdae() -> None:
    expected = [-0.7362335, 0.6462441, 0.9962340, 0.8038837, 0.6767276, 0.7631307, 0.0867056, 0.5947865]
    assert sinusoid(torch.tensor([637]), 8)[0].tolist() == close(expected, 1e-6)


def test_sinusoid_of_ddae() -> None:
    waves = sinusoid(torch.tensor([0.011]), 128, "sin-cos", endpoint=True)[0]
    assert waves[:3].tolist() == close([0.0109997783, 0.0095037296, 0.0082111442], 1e-9)
    assert waves[64:67].tolist() == close([0.9999395013, 0.9999548197, 0.9999662638], 1e-7)


def test_sinusoid_of_odd_width_ends_in_zero() -> None:
    assert sinusoid(torch.tensor([3.0]), 9)[0, -1] == 0
