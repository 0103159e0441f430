"""Numbers that compare images or predictions; a few lines each, so that nothing heavy is imported."""

from diffrep.metrics.images import mse, psnr, ssim
from diffrep.metrics.intervals import accuracy, mean_interval, proportion_interval

__all__ = ["accuracy", "mean_interval", "mse", "proportion_interval", "psnr", "ssim"]
