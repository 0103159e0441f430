"""Training: one loop that the caller iterates, its objectives, its averages and its checkpoints."""

from diffrep.training.checkpoint import Checkpoints, Stored, load_checkpoint
from diffrep.training.config import TrainConfig
from diffrep.training.denoising import DenoisingObjective
from diffrep.training.ema import Average
from diffrep.training.loop import train
from diffrep.training.objective import Batch, Objective, copy_tensors, trainable_tensors
from diffrep.training.precision import fast_precision
from diffrep.training.report import TrainReport

__all__ = [
    "Average",
    "Batch",
    "Checkpoints",
    "DenoisingObjective",
    "Objective",
    "Stored",
    "TrainConfig",
    "TrainReport",
    "copy_tensors",
    "fast_precision",
    "load_checkpoint",
    "train",
    "trainable_tensors",
]
