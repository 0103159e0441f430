"""Every command's settings: one frozen pydantic model each, unknown names refused, written to config.yaml.

Fields without `option` are positional on the command line; all can stand in a `--config` file by their own names.
What belongs to one call and not to the result (`--dry-run`, `--overwrite`, ...) is in `options.Options`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from pydantic import BaseModel, ConfigDict, Field

JOINED = Parameter(show_default=lambda values: " ".join(str(value) for value in values) or "none")
Words = Annotated[tuple[str, ...], JOINED]
Numbers = Annotated[tuple[int, ...], JOINED]
HIDDEN = Parameter(show=False)
Folder = Annotated[Path, Parameter(alias="-o")]
MODEL = "a packaged model (see `diffrep models`), a model or run folder, or another program's checkpoint"
DATA = "a source of images: digits, folder:PATH or npz:PATH (see `diffrep datasets`)"


def option(default: Any, help: str, **limits: Any) -> Any:  # noqa: ANN401 (pydantic's Field is any)
    """A setting with a flag: its default (... where it has none), its help, and pydantic's limits."""
    return Field(default, description=help, kw_only=True, **limits)


class Config(BaseModel):
    """What all commands have."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def plain(self) -> dict[str, Any]:
        """As YAML can hold it; read back by `--config` it gives the same settings."""
        return self.model_dump(mode="json")


class Work(Config):
    """Settings of commands that compute."""

    output_dir: Folder = option(..., "run folder to write; must be new or empty")
    seed: int = option(0, "address of all randomness", ge=0)
    device: str = option("auto", "cpu, cuda, cuda:1, ...; auto takes a GPU where there is one")


class OfModel(Config):
    """The first word of commands that use a model. Bases stand right to left in the order of the words."""

    model: str = Field(description=MODEL)


class OfImages(Config):
    """The word for the images."""

    data: str = Field(description=DATA)


class Foreign(Config):
    """Settings of commands whose model may be another program's."""

    architecture: Path | None = option(None, "JSON file of what another program's checkpoint cannot tell")
    vae: str | None = option(
        None,
        "VAE of a model of latents: a folder of diffusers, hub id or card; default: the one in the model's pipeline",
    )


class Labelled(Config):
    """Settings of commands that call a denoiser themselves."""

    label: Annotated[int, Field(ge=0)] | Literal["none"] | None = option(
        None, 'class, for models that have classes; "none" leaves the class embedding out'
    )


class OnData(Foreign, Work, OfImages, OfModel):
    """Settings of commands that read images with a model."""

    labels: Path | None = option(None, "CSV with a header, a path and a label column, for folder:")
    max_bad_fraction: float = option(0.01, "share of files that may be unreadable, 0 to 1", ge=0, le=1)
    batch_size: int = option(256, "images per pass; changes speed, not results", ge=1)


class Training(Work):
    """Settings of the training loop."""

    labels: Path | None = option(None, "CSV with a header, a path and a label column, for folder:")
    max_bad_fraction: float = option(0.01, "share of files that may be unreadable, 0 to 1", ge=0, le=1)
    batch_size: int = option(64, "images per step", ge=1)
    flip: bool = option(False, "mirror half of the images left to right")
    steps: int = option(1500, "optimizer steps in all", ge=1)
    learning_rate: float = option(1e-3, "rate after warm-up", gt=0)
    optimizer: Literal["adamw", "adam"] = option("adamw", "optimizer")
    weight_decay: float = option(0.0, "weight decay", ge=0)
    warmup_steps: int = option(100, "steps over which the rate rises", ge=0)
    cosine_to: float = option(0.02, "fraction of the rate at the last step; 1 keeps it constant", ge=0, le=1)
    clip_norm: float = option(1.0, "largest gradient norm; 0 does not clip", ge=0)
    accumulate: int = option(1, "micro-batches per step, to save memory", ge=1)
    ema: Literal["constant", "ramp", "none"] = option("constant", "rule of the averaged weights")
    ema_decay: float = option(0.995, "decay of the averaged weights", ge=0, lt=1)
    precision: Literal["auto", "float32", "bf16"] = option(
        "auto", "bf16 computes in autocast; auto takes it where the device is fast at it, else float32"
    )
    checkpoint_every: int = option(500, "steps between checkpoints; 0: at the end only", ge=0)
    validate_every: int = option(250, "steps between validations; 0: at the end only", ge=0)
    validation_images: int = option(512, "images of the validation split that are used", ge=1)
    preview_every: int = option(0, "steps between preview pictures; 0: none", ge=0)
    keep_last: int = option(2, "newest checkpoints to keep, besides the best", ge=1)
    log_every: int = option(50, "steps between lines of metrics.jsonl", ge=1)


class DemoConfig(Config):
    """Settings of `diffrep demo`; those of `diffrep.experiments.demo.DemoSettings`, which says what each means."""

    output_dir: Folder = option(Path("runs/demo"), "run folder to write; must be new or empty")
    seed: int = option(0, "address of all randomness", ge=0)
    from_scratch: bool = option(False, "also train the denoiser, instead of taking the packaged ddpm-digits")
    steps: int = option(1300, "training steps of the autoencoder", ge=1)
    pretrain_steps: int = option(1500, "training steps of the denoiser, with --from-scratch", ge=1)
    batch_size: int = option(64, "images per training step", ge=1)
    code_dim: int = option(32, "numbers per code", ge=1)
    levels: Numbers = option((0, 5, 10, 40, 80, 160), "times t at which features are taken; repeat it")
    per_class: int = option(10, "labels per class of the few-label probes", ge=1)
    draws: int = option(20, "draws of few labels that are averaged", ge=1)
    initializations: int = option(3, "untrained networks that are averaged", ge=1)
    sampling_steps: Numbers = option((5, 10, 50), "sampling steps of the z-only rows; repeat it")
    headline_steps: int = option(10, "sampling steps of the numbers named without steps", ge=1)
    inversion_steps: Numbers = option((10,), "steps of the rows with inverted x_T; repeat it")
    picture_steps: int = option(20, "steps of interpolation and edits", ge=1)
    sample_steps: int = option(50, "steps of samples", ge=1)
    gap_points: int = option(21, "times of the gap curve", ge=1)
    shown: int = option(12, "images per strip", ge=2)
    device: str = option("cpu", "cpu, cuda, cuda:1, ...")
    edited_class: int = option(8, "class that edits move towards", ge=0)
    experiment: Annotated[Literal["demo"], HIDDEN] = option("demo", "as a run folder records it")
    model: Annotated[str | None, HIDDEN] = option(None, "as a run folder records it")
    data: Annotated[Literal["digits"], HIDDEN] = option("digits", "as a run folder records it")


class TrainConfig(Training, OfImages):
    """Settings of `diffrep train`."""

    image_size: int | None = option(None, "side in pixels; images are resized and cropped to it", ge=4)
    channels: int | None = option(None, "1 (grey) or 3 (colour); default: as the images are")
    layout: Literal["tiny", "ddpm", "ddpmpp", "adm"] = option("tiny", "layout of the network")
    width: int = option(32, "base channels of the network, a multiple of 16", ge=16)
    blocks: int = option(1, "residual blocks per resolution", ge=1)
    dropout: float = option(0.05, "dropout in the blocks", ge=0, lt=1)
    schedule: Literal["linear", "cosine"] = option("linear", "noise schedule of 1000 steps")
    parameterization: Literal["eps", "x0", "v"] = option("eps", "what the network predicts")
    weighting: Literal["uniform", "min_snr"] = option("uniform", "weight of the loss")


class AutoencodeConfig(Labelled, Foreign, Training, OfImages, OfModel):
    """Settings of `diffrep autoencode`."""

    code_dim: int = option(32, "numbers per code", ge=1)
    steps: int = option(1300, "optimizer steps in all", ge=1)
    learning_rate: float = option(2e-3, "rate after warm-up", gt=0)
    training_scale: Literal["posterior", "score"] | None = option(
        None, "scale of the shift in training; default: posterior where the schedule has it, else score"
    )
    weighting: Literal["pdae", "uniform", "p2", "min_snr"] = option("pdae", "weight of the loss")


class ExtractConfig(Labelled, OnData):
    """Settings of `diffrep extract`."""

    taps: Annotated[tuple[str, ...], Parameter(show_default=False)] = option(
        (), "tap, glob or official name; repeat it, or separate by commas; default: dec.*, of a transformer block.*"
    )
    levels: str | None = option(None, "t=1,10,30 or log_snr=6,2 or sigma=0.1; default: log-SNR 8, 6, 4")
    pool: str = option("mean", "mean, 2x2, 4x4, ... or none")
    split: Literal["train", "val", "test"] | None = option(None, "one split; default: all")
    precision: Literal["float32", "bf16"] = option("float32", "bf16 is faster where the machine has it")


class ProbeConfig(Config):
    """Settings of `diffrep probe`."""

    features: Path = Field(description="folder that `diffrep extract` wrote, or a features.parquet")
    output_dir: Annotated[Path | None, Parameter(alias="-o")] = option(None, "run folder; default: FEATURES/probe")
    probe: Literal["ridge", "linear", "knn"] = option("ridge", "kind of probe")
    cv: int | None = option(None, "choose by so many folds of train and val; default: choose on val", ge=2)
    only: str = option("*", "glob of the features to choose from")
    per_class: int = option(0, "also probe the winner with so many labels per class; 0: do not", ge=0)
    draws: int = option(20, "draws of few labels that are averaged", ge=1)
    seed: int = option(0, "address of folds and draws", ge=0)
    l2: float | None = option(None, "penalty of ridge; default: cross-validated", gt=0)
    c: float = option(1.0, "inverse penalty of the linear probe", gt=0)
    k: int = option(20, "neighbours of knn", ge=1)


class EncodeConfig(OnData):
    """Settings of `diffrep encode`."""

    split: Literal["train", "val", "test"] | None = option(None, "one split; default: all")
    invert: int = option(0, "also write x_T, found in so many steps; 0: no x_T", ge=0)


class OfCodes(Config):
    """The word for the codes."""

    codes: Path = Field(description="folder that `diffrep encode` wrote, or a codes.parquet")


class DecodeConfig(Foreign, Work, OfCodes, OfModel):
    """Settings of `diffrep decode`."""

    steps: int = option(50, "sampling steps", ge=1)
    num: int | None = option(None, "only the first so many codes", ge=1)
    batch_size: int = option(256, "images per pass; changes speed, not results", ge=1)


class ReconstructConfig(OnData):
    """Settings of `diffrep reconstruct`."""

    split: Literal["train", "val", "test"] = option("test", "which images")
    num: int = option(400, "at most so many images", ge=2)
    steps: int = option(10, "sampling steps of z only", ge=1)
    inversion_steps: int = option(50, "steps of inversion and of decoding from inverted x_T", ge=1)


class InterpolateConfig(OnData):
    """Settings of `diffrep interpolate`."""

    split: Literal["train", "val", "test"] = option("test", "which images")
    ids: Words = option((), "ids of images, two per way, separated by commas; default: from class to class")
    num: int = option(5, "ways, where --ids names none; at most one per class", ge=1)
    frames: int = option(8, "pictures per way, both ends included", ge=2)
    steps: int = option(50, "steps of inversion and of decoding", ge=1)


class SampleConfig(Labelled, Foreign, Work, OfModel):
    """Settings of `diffrep sample`."""

    num: int = option(16, "images", ge=1)
    steps: int = option(50, "sampling steps", ge=1)
    sampler: Literal["ddim", "ddpm", "heun", "dpmpp_2m"] = option("ddim", "sampler")
    rule: str | None = option(None, "rule of the path, such as pdae or karras; default: the model's own")
    batch_size: int = option(64, "images per pass; changes speed, not results", ge=1)


class ReportConfig(Config):
    """Settings of `diffrep report`."""

    run: Path = Field(description="run folder that holds a report.json")


class ConvertConfig(Config):
    """Settings of `diffrep convert`."""

    source: str = Field(description="another program's checkpoint: a file, a folder with one in it, or a hub id")
    out: Path = Field(description="model folder to write; must be new or empty")
    architecture: Path | None = option(None, "JSON file of what the checkpoint cannot tell")
    schedule: Literal["linear", "cosine", "scaled-linear"] | None = option(
        None, "noise schedule of 1000 steps, for a network without one (scaled-linear: Stable Diffusion's)"
    )
    overwrite: bool = option(False, "replace an earlier model folder")
