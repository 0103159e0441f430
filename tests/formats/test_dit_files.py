"""DiT, SiT and REPA files: second forwards in float64, directions of time, what a file can and cannot tell."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffrep.continuous import FlowSchedule
from diffrep.errors import FormatError
from diffrep.formats import load, save
from diffrep.noise import NoiseLevel
from diffrep.sampling import ddim, invert
from diffrep.schedules import DiscreteSchedule
from diffrep.tap_features import TapFeatures
from diffrep.taps import read
from tests.formats.oracles import check_known_image
from tests.formats.transformer_files import adaptive_shapes, batch, linear, open_file, random_state
from tests.formats.transformer_formulas import adaptive

FACTS = {"num_heads": 2, "num_classes": 10, "model": "DiT-tiny"}
SIT = {**FACTS, "model": "SiT-S/2", "learn_sigma": False}
REPA = {**FACTS, "encoder_depth": 1, "path_type": "linear", "prediction": "v"}
X, Y = batch(), torch.tensor([3, 10, 0])


def write(path: Path, data: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(data, path)
    return path


def close(ours: Tensor, theirs: Tensor) -> None:
    assert float((ours.double() - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max())


def test_dit_without_a_variance(tmp_path: Path) -> None:
    state = random_state(adaptive_shapes())
    denoiser = open_file(write(tmp_path / "weights.pt", state), FACTS)
    t = torch.tensor([0, 417, 999])
    level = denoiser.schedule.at(t)
    expected, kept = adaptive(state, X, t, Y, 2)
    with torch.no_grad():
        prediction = denoiser(X, level, y=Y)
        maps = read(denoiser, X, level, ["layer-0", "blocks.1"], y=Y)
    close(prediction.eps, expected)
    assert prediction.log_variance is None
    for name, tokens in zip(("layer-0", "blocks.1"), kept, strict=True):
        close(maps[name].flatten(2).transpose(1, 2), tokens)


def test_sit_points_to_the_image(tmp_path: Path) -> None:
    """Its t is 1 - s, its velocity x - eps, and half of its output is dropped (`learn_sigma`)."""
    state = random_state(adaptive_shapes(out_channels=8))
    denoiser = open_file(write(tmp_path / "weights.pt", state), {**SIT, "learn_sigma": True})
    t = torch.tensor([0.1, 0.5, 0.93], dtype=torch.float64)
    u, kept = adaptive(state, X, t, Y, 2, discard=True)
    level = NoiseLevel(t, 1 - t)
    with torch.no_grad():
        prediction = denoiser(X, level, y=Y)
        features = TapFeatures(denoiser, ["layer-1"], [denoiser.schedule.at(0.3)])(X, noise=X.flip(0))
    rest = (1 - t).reshape(-1, 1, 1, 1)
    close(prediction.x0, X + rest * u)
    close(prediction.eps, X - (1 - rest) * u)
    close(prediction.flow, -u)
    assert prediction.log_variance is None
    _, kept = adaptive(state, 0.7 * X + 0.3 * X.flip(0), torch.full((3,), 0.7), torch.full((3,), 10), 2)
    close(next(iter(features.values())), kept[1].mean(1))


@pytest.mark.parametrize("qk_norm", [False, True])
def test_repa_points_to_the_noise(tmp_path: Path, qk_norm: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Its t is s, its velocity eps - x; its projectors are no part of the trunk."""
    shapes = adaptive_shapes(qk_norm=qk_norm) | linear("projectors.0.0", 64, 32) | linear("projectors.0.2", 64, 64)
    state = random_state(shapes)
    path = write(tmp_path / "last.pt", {"ema": state, "model": {}, "opt": {}, "steps": 5})
    denoiser = open_file(path, FACTS)
    assert "projectors are left out: 4 tensors, projectors.0.0.weight" in caplog.text
    trunk = {name: tensor for name, tensor in state.items() if not name.startswith("projectors")}
    t = torch.tensor([0.1, 0.5, 0.93], dtype=torch.float64)
    u, _ = adaptive(trunk, X, t, Y, 2, qk_norm=qk_norm)
    with torch.no_grad():
        prediction = denoiser(X, NoiseLevel(1 - t, t), y=Y)
    close(prediction.flow, u)
    close(prediction.x0, X - t.reshape(-1, 1, 1, 1) * u)
    again = load(save(denoiser, tmp_path / "model"))
    with torch.no_grad():
        assert torch.equal(again(X, NoiseLevel(1 - t, t), y=Y).flow, prediction.flow)


def test_flows_are_not_sampled_by_a_table_and_not_clipped(tmp_path: Path) -> None:
    for facts in (SIT, REPA):
        denoiser = open_file(write(tmp_path / "weights.pt", random_state(adaptive_shapes())), facts)
        assert denoiser.schedule == FlowSchedule()
        assert not denoiser.sampling.clip
        assert denoiser.input.latent


def test_directions_of_time(tmp_path: Path) -> None:
    """A network that knows x0 and answers by its program's convention, asked at every tenth t."""
    path = write(tmp_path / "weights.pt", random_state(adaptive_shapes()))
    x0 = batch(count=100).double()

    def dit(x: Tensor, t: Tensor) -> Tensor:
        abar = DiscreteSchedule.linear().alphas_cumprod[t.long()]
        return (x - abar.sqrt() * x0) / (1 - abar).sqrt()

    check_known_image(open_file(path, FACTS), dit, x0, torch.arange(0, 1000, 10))
    grid = torch.arange(0.005, 1, 0.01, dtype=torch.float64)
    # The program's velocity is x0 - noise; conversion has turned the sign of the last layer.
    check_known_image(open_file(path, SIT), lambda x, t: -(x0 - (x - t * x0) / (1 - t)), x0, grid)
    check_known_image(open_file(path, REPA), lambda x, t: (x - (1 - t) * x0) / t - x0, x0, grid)


def test_training_checkpoints_bring_their_arguments(tmp_path: Path) -> None:
    """`args` in the file tell SiT from DiT, and the classes; the averaged weights are taken."""
    state = random_state(adaptive_shapes(out_channels=8))
    raw = {name: torch.full_like(tensor, 0.01) for name, tensor in state.items()}
    arguments = argparse.Namespace(model="SiT-tiny", num_classes=10, path_type="Linear", prediction="velocity")
    path = write(tmp_path / "0050000.pt", {"model": raw, "ema": state, "opt": {}, "args": arguments})
    denoiser = open_file(path, {"num_heads": 2})
    assert denoiser.parameterization == "flow"
    assert (denoiser.labels.num_classes, denoiser.labels.null) == (10, 10)
    assert torch.equal(denoiser.network.positions, state["pos_embed"])


def test_configs_are_found_two_folders_above(tmp_path: Path) -> None:
    (tmp_path / "args.json").write_text(json.dumps(FACTS))
    path = write(tmp_path / "run" / "checkpoints" / "1.pt", random_state(adaptive_shapes()))
    assert open_file(path).labels.null == 10


def test_ancestral_steps_without_a_learned_variance_are_the_larger(tmp_path: Path) -> None:
    path = write(tmp_path / "weights.pt", random_state(adaptive_shapes()))
    assert open_file(path, FACTS).sampling.variance == "upper"
    assert open_file(path, {**FACTS, "sigma_small": True}).sampling.variance == "posterior"


def test_what_create_diffusion_was_told(tmp_path: Path) -> None:
    path = write(tmp_path / "weights.pt", random_state(adaptive_shapes()))
    told = {"noise_schedule": "squaredcos_cap_v2", "diffusion_steps": 400, "predict_xstart": True}
    denoiser = open_file(path, {**FACTS, **told})
    assert denoiser.schedule == DiscreteSchedule.cosine(400)
    assert denoiser.parameterization == "x0"


def test_flows_walk_their_programs_grid_from_pure_noise(tmp_path: Path) -> None:
    """Euler's method of SiT and REPA: x + dt * u from t = 0 (SiT) or 1 (REPA), in evenly spaced steps."""
    state, x, y = random_state(adaptive_shapes()), X.double(), torch.tensor([10, 10, 10])
    for facts, sign in ((SIT, 1), (REPA, -1)):
        denoiser = open_file(write(tmp_path / "weights.pt", state), facts)
        path = denoiser.schedule.path(4, rule=denoiser.sampling.rule)
        assert [float(path.alpha[0]), float(path.sigma[-1])] == [0, 0]
        expected = x
        for s in (1.0, 0.75, 0.5, 0.25):
            t = torch.full((3,), 1 - s if sign == 1 else s)
            expected = expected + sign * 0.25 * adaptive(state, expected, t, y, 2)[0]
        with torch.no_grad():
            close(ddim(denoiser, X, path), expected)
            up = denoiser.schedule.path(4, rule=denoiser.sampling.rule, direction="up")
            assert invert(denoiser, X, up).isfinite().all()
            assert all(v.isfinite().all() for v in TapFeatures(denoiser, "*", [denoiser.schedule.at(0)])(X).values())


def test_published_sizes_know_their_heads(tmp_path: Path) -> None:
    state = random_state(adaptive_shapes(width=384, depth=12, heads=6, rows=1001, out_channels=8))
    denoiser = open_file(write(tmp_path / "weights.pt", state))
    assert denoiser.network.config["heads"] == 6
    assert (denoiser.labels.num_classes, denoiser.labels.null) == (1000, 1000)


@pytest.mark.parametrize(
    ("rows", "facts", "null"),
    [
        (11, {"num_classes": 10}, 10),
        (10, {"num_classes": 10}, None),
        (11, {"num_classes": 10, "class_dropout_prob": 0.1}, 10),
        (11, {"class_dropout_prob": 0.1}, 10),
        (10, {"class_dropout_prob": 0}, None),
        (8, {"cfg_prob": 0.1}, 7),
        (1000, {}, None),
        (1001, {}, 1000),
    ],
)
def test_the_null_class_is_the_row_more(tmp_path: Path, rows: int, facts: dict[str, object], null: int | None) -> None:
    path = write(tmp_path / "weights.pt", random_state(adaptive_shapes(rows=rows, out_channels=8)))
    assert open_file(path, {"num_heads": 2, **facts}).labels.null == null


def test_missing_facts_are_named_all_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "weights.pt", random_state(adaptive_shapes()))
    with pytest.raises(FormatError, match="num_heads, num_classes, model") as caught:
        open_file(path)
    assert 'architecture={"num_heads": ..., "num_classes": ..., "model": "DiT-XL/2" (or' in caught.value.hint


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"num_heads": 3}, "num_heads is 3"),
        ({"num_heads": "two"}, "num_heads is 'two'"),
        ({"num_heads": True}, "num_heads is True"),
        ({"mlp_ratio": 2.0}, "mlp_ratio = 4"),
        ({"num_classes": "10"}, "num_classes is '10'"),
        ({"num_classes": 10, "class_dropout_prob": 0}, "class_dropout_prob 0"),
        ({"hidden_size": 64}, "hidden_size = 32"),
        ({"depth": 28}, "depth = 2, but architecture= says 28"),
        ({"mlp_ratio": "4"}, "mlp_ratio is '4'"),
        ({"class_dropout_prob": "x"}, "class_dropout_prob is 'x'"),
        ({"input_size": 32}, "input_size = 8"),
        ({"learn_sigma": True}, "learn_sigma = False"),
        ({"num_classes": 1000}, "table of 11 labels"),
        ({"model": "SiT-S/2", "path_type": "GVP"}, 'path_type "gvp"'),
        ({"model": "SiT-S/2", "prediction": "score"}, 'prediction "score"'),
    ],
)
def test_facts_that_do_not_fit_are_refused(tmp_path: Path, facts: dict[str, object], message: str) -> None:
    path = write(tmp_path / "weights.pt", random_state(adaptive_shapes()))
    with pytest.raises(FormatError, match=message):
        open_file(path, {**FACTS, **facts})


def broken(change: str) -> dict[str, Tensor]:
    state = random_state(adaptive_shapes())
    if change == "missing":
        del state["blocks.1.attn.proj.bias"]
    elif change == "no labels":
        del state["y_embedder.embedding_table.weight"]
    elif change == "extra":
        state["blocks.0.cross.weight"] = torch.zeros(3)
    elif change == "shape":
        state["final_layer.adaLN_modulation.1.weight"] = torch.zeros(64, 31)
    elif change == "a million blocks":
        state["blocks.999999.attn.proj.bias"] = torch.zeros(32)
    elif change == "positions":
        state["pos_embed"] = torch.zeros(1, 15, 32)
    elif change == "no positions":
        del state["pos_embed"]
    elif change == "flat positions":
        state["pos_embed"] = torch.zeros(16)
    elif change == "output":
        state["final_layer.linear.weight"] = torch.zeros(17, 32)
    elif change == "no output":
        del state["final_layer.linear.weight"]
    elif change == "width":
        state["pos_embed"] = torch.zeros(1, 16, 1).expand(1, 16, 1 << 20)
    return state


@pytest.mark.parametrize(
    "change",
    [
        "missing",
        "no labels",
        "extra",
        "shape",
        "a million blocks",
        "positions",
        "no positions",
        "flat positions",
        "output",
        "no output",
        "width",
    ],
)
@pytest.mark.parametrize("facts", [FACTS, SIT])
def test_broken_files_are_refused(tmp_path: Path, change: str, facts: dict[str, object]) -> None:
    named = {
        "no positions": "lacks pos_embed,",
        "no labels": "lacks y_embedder.embedding_table.weight,",
        "missing": "1 missing: blocks.1.attn.proj.bias",
        "extra": "1 left over: blocks.0.cross.weight",
    }
    with pytest.raises(FormatError, match=named.get(change)):
        open_file(write(tmp_path / "weights.pt", broken(change)), facts)


@pytest.mark.parametrize("facts", [FACTS, SIT, REPA])
def test_a_normalization_that_is_not_there_is_refused(tmp_path: Path, facts: dict[str, object]) -> None:
    path = write(tmp_path / "weights.pt", random_state(adaptive_shapes()))
    with pytest.raises(FormatError, match="qk_norm = False, but architecture= says True"):
        open_file(path, {**facts, "qk_norm": True})
