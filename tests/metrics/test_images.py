"""Image metrics against the official program's check values and plain references."""

import pytest
import torch
from torch import Tensor

from diffrep.errors import InputError
from diffrep.metrics import mse, psnr, ssim


def check_pair(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The pair of images of the reference's check value."""
    k = torch.arange(3 * 32 * 32, dtype=torch.float64)
    a = ((torch.sin(0.05 * k) + 1) / 2).reshape(1, 3, 32, 32).to(dtype)
    return a, 0.9 * a + 0.03


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_of_the_official_program(dtype: torch.dtype) -> None:
    a, b = check_pair(dtype)
    assert ssim(a, b).item() == pytest.approx(0.9941108, abs=1e-6)
    assert mse(a, b).item() == pytest.approx(1.6776935e-3, rel=1e-5)
    assert psnr(a, b).item() == pytest.approx(27.75287, abs=1e-3)


def test_ssim_equals_a_window_applied_pixel_by_pixel() -> None:
    a, b = torch.rand(2, 1, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    offset = torch.arange(11, dtype=torch.float64) - 5
    line = torch.exp(-(offset**2) / 4.5)
    window = line[:, None] * line / line.sum() ** 2
    padded = [torch.nn.functional.pad(x[0, 0], (5, 5, 5, 5)) for x in (a, b)]
    values = []
    for i in range(8):
        for j in range(8):
            p, q = (x[i : i + 11, j : j + 11] for x in padded)
            m, n = (window * p).sum(), (window * q).sum()
            v, w = (window * p * p).sum() - m * m, (window * q * q).sum() - n * n
            c = (window * p * q).sum() - m * n
            values.append((2 * m * n + 1e-4) * (2 * c + 9e-4) / ((m * m + n * n + 1e-4) * (v + w + 9e-4)))
    assert ssim(a, b).item() == pytest.approx(torch.stack(values).mean().item(), abs=1e-12)


def test_equal_images_and_one_value_per_image() -> None:
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ssim(x, x), torch.ones(3))
    assert psnr(x, x).isinf().all()
    y = torch.cat([x[:1], x[1:] * 0.5])
    assert mse(x, y)[0] == 0
    assert (mse(x, y)[1:] > 0).all()
    for metric in (mse, psnr, ssim):
        torch.testing.assert_close(metric(x, y)[1:2], metric(x[1:2], y[1:2]))
        torch.testing.assert_close(metric(x, y), metric(y, x))


def test_half_precision_is_computed_in_float32() -> None:
    a, b = check_pair(torch.float64)
    assert ssim(a.bfloat16(), b.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("metric", [mse, psnr, ssim])
def test_what_cannot_be_compared_is_refused(metric) -> None:
    x = torch.rand(2, 1, 8, 8)
    with pytest.raises(InputError, match="divide bytes by 255"):
        metric((x * 255).byte(), x)
    with pytest.raises(InputError, match="cannot be compared"):
        metric(x, x[:1])
    with pytest.raises(InputError, match="batch dimension"):
        metric(x[0], x[0])
