"""LightningDiT files: a second forward in float64, the latents' statistics, what is asked for."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffrep.continuous import FlowSchedule
from diffrep.errors import FormatError
from diffrep.formats import load, save
from diffrep.networks.dit_blocks import Rotary
from diffrep.noise import NoiseLevel
from diffrep.taps import read
from tests.formats.oracles import check_known_image
from tests.formats.test_dit_files import close
from tests.formats.transformer_files import adaptive_shapes, batch, open_file, random_state
from tests.formats.transformer_formulas import adaptive

STATISTICS = {"mean": torch.tensor([0.1, -0.2, 0.3, 0.0]), "std": torch.tensor([1.5, 2.0, 0.5, 1.0])}
FACTS = {"num_heads": 2, "num_classes": 10, "latent_mean": [0.1, -0.2, 0.3, 0.0], "latent_std": [1.5, 2.0, 0.5, 1.0]}
XL = {"rms": True, "gated": True, "rotary": True}
VARIANTS = {
    "released": XL,
    "qk_norm": {**XL, "qk_norm": True},
    "no shift": {**XL, "parts": 4},
    "plain": {},
    "plain with qk_norm and turns": {"qk_norm": True, "rotary": True},
}
X, Y = batch(), torch.tensor([3, 10, 0])


def state_of(**kind: bool) -> dict[str, Tensor]:
    state = random_state(adaptive_shapes(**kind))
    if kind.get("rotary"):
        state |= {f"feat_rope.freqs_{wave}": getattr(Rotary(16, (4, 4)), wave) for wave in ("cos", "sin")}
    return state


def write(path: Path, data: object) -> Path:
    torch.save(data, path)
    return path


@pytest.mark.parametrize("name", VARIANTS)
def test_the_second_forward_agrees(tmp_path: Path, name: str) -> None:
    kind = VARIANTS[name]
    state = state_of(**kind)
    path = write(tmp_path / "weights.pt", {"ema": {f"module.{k}": v for k, v in state.items()}, "model": {}, "opt": {}})
    denoiser = open_file(path, {**FACTS, "model_type": "LightningDiT-XL/1"})
    t = torch.tensor([0.1, 0.5, 0.93], dtype=torch.float64)
    u, kept = adaptive(state, X, t, Y, 2, **{k: bool(v) for k, v in kind.items() if k != "parts"})
    level, rest = NoiseLevel(t, 1 - t), (1 - t).reshape(-1, 1, 1, 1)
    with torch.no_grad():
        prediction = denoiser(X, level, y=Y)
        maps = read(denoiser, X, level, ["layer-0", "block.2"], y=Y)
    close(prediction.x0, X + rest * u)
    close(prediction.flow, -u)
    close(maps["layer-0"].flatten(2).transpose(1, 2), kept[0])
    close(maps["block.2"].flatten(2).transpose(1, 2), kept[1])


def test_what_the_file_is(tmp_path: Path) -> None:
    denoiser = open_file(write(tmp_path / "weights.pt", state_of(**XL)), FACTS)
    assert denoiser.schedule == FlowSchedule("logit-normal")
    assert (denoiser.input.channels, denoiser.input.size, denoiser.input.latent) == (4, 8, True)
    assert (denoiser.labels.null, denoiser.sampling.clip) == (10, False)
    again = load(save(denoiser, tmp_path / "model"))
    assert again.identity == denoiser.identity
    assert again.input == denoiser.input
    assert again.input.scaling.scale == pytest.approx([1 / 1.5, 1 / 2.0, 2.0, 1.0])


def test_time_runs_towards_the_image(tmp_path: Path) -> None:
    denoiser = open_file(write(tmp_path / "weights.pt", state_of(**XL)), FACTS)
    x0 = batch(count=100).double()
    grid = torch.arange(0.005, 1, 0.01, dtype=torch.float64)
    check_known_image(denoiser, lambda x, t: -(x0 - (x - t * x0) / (1 - t)), x0, grid)


def test_statistics_lie_beside_the_checkpoint(tmp_path: Path) -> None:
    write(tmp_path / "latents_stats.pt", {name: value[None, :, None, None] for name, value in STATISTICS.items()})
    path = write(tmp_path / "weights.pt", state_of(**XL))
    denoiser = open_file(path, {"num_heads": 2, "num_classes": 10, "latent_multiplier": 0.5})
    latents = batch()
    expected = (latents - STATISTICS["mean"].reshape(1, 4, 1, 1)) / STATISTICS["std"].reshape(1, 4, 1, 1) * 0.5
    torch.testing.assert_close(denoiser.input.scaling.normalize(latents), expected)
    torch.testing.assert_close(denoiser.input.scaling.restore(expected), latents)


def test_without_statistics_it_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "weights.pt", state_of(**XL))
    with pytest.raises(FormatError, match=r"latent_mean, latent_std .*latents_stats\.pt beside it"):
        open_file(path, {"num_heads": 2, "num_classes": 10})
    with pytest.raises(FormatError, match="4 finite numbers, one per channel"):
        open_file(path, {**FACTS, "latent_std": [1.0, 2.0]})
    for std in ([1.0, 2.0, 0.0, 1.0], [1.0, 2.0, float("nan"), 1.0], "one"):
        with pytest.raises(FormatError, match="latent_std is"):
            open_file(path, {**FACTS, "latent_std": std})


def test_a_config_leaves_out_what_its_program_takes_then(tmp_path: Path) -> None:
    """The program's train.py: without `latent_norm` no statistics, without a multiplier 0.18215, times uniform."""
    path, few = write(tmp_path / "weights.pt", state_of(**XL)), {"num_heads": 2, "num_classes": 10}
    for config in ({"data": {"latent_norm": False}}, {"data": {"image_size": 256}, "transport": {}}):
        plain = open_file(path, {**few, **config})
        torch.testing.assert_close(plain.input.scaling.normalize(X), X * 0.18215)
        assert plain.schedule == FlowSchedule("uniform")
    told = {"data": {"latent_norm": False, "latent_multiplier": 2.0}, "sample": {"timestep_shift": 0.25}}
    shifted = open_file(path, {**few, **told, "transport": {"use_lognorm": True}})
    torch.testing.assert_close(shifted.input.scaling.normalize(X), 2 * X)
    assert shifted.schedule == FlowSchedule("logit-normal", shift=4.0)
    t = 1 - shifted.schedule.path(4, rule="flow").sigma
    even = torch.linspace(0, 1, 5, dtype=torch.float64)
    torch.testing.assert_close(t, 0.25 * even / (1 - 0.75 * even))


def test_what_is_known_by_its_settings_its_name_or_its_statistics(tmp_path: Path) -> None:
    """A plain one has DiT's names and shapes."""
    facts = {"num_heads": 2, "num_classes": 10, "latent_norm": False}
    for name, told in (
        ("a.pt", {"use_rope": False}),
        ("lightningdit-xl.pt", {}),
        ("b.pt", {"model": "LightningDiT-B"}),
    ):
        assert open_file(write(tmp_path / name, {"ema": state_of()}), {**facts, **told}).parameterization == "flow"
    write(tmp_path / "latents_stats.pt", STATISTICS)
    assert open_file(write(tmp_path / "c.pt", {"ema": state_of()}), facts).parameterization == "flow"
    with pytest.raises(FormatError, match="use_rope = False"):
        open_file(tmp_path / "c.pt", {**facts, "use_rope": True})


def test_all_that_is_missing_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="num_heads, latent_mean, latent_std"):
        open_file(write(tmp_path / "weights.pt", state_of(**XL)), {"num_classes": 10})
    with pytest.raises(FormatError, match="num_heads, num_classes, latent_mean, latent_std"):
        open_file(tmp_path / "weights.pt")


def test_modulation_of_another_width_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="rows of modulation"):
        open_file(write(tmp_path / "weights.pt", state_of(**XL, parts=5)), FACTS)
