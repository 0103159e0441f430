"""DiTTransformer2DModel folders: diffusers' mathematics where it trained them, the official one where it did not."""

import json

import pytest
import torch

import diffrep as dr
from diffrep.errors import FormatError
from diffrep.formats.diffusers_dit import official_name
from tests.formats.diffusers_models import DIT, close, inputs, random, saved

LINEAR = dr.DiscreteSchedule.linear()
Y = torch.tensor([3, 10])


def whole(answer):
    return answer.eps if answer.log_variance is None else torch.cat([answer.eps, answer.log_variance], dim=1)


def converted_from_official(model):
    """As diffusers' conversion script leaves it: the same embedding in every block."""
    first = model.transformer_blocks[0].norm1.emb.state_dict()
    for block in model.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(first)
    return model


def with_official_mathematics(model):
    """diffusers' own forward, with its three differences set back (frequencies k / half, epsilon 1e-6)."""
    for module in model.modules():
        if type(module).__name__ == "Timesteps":
            module.downscale_freq_shift = 0
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6
    return model


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"out_channels": 4, "attention_bias": False},
        {"activation_fn": "gelu", "norm_eps": 1e-3},
        {"patch_size": 4, "num_layers": 3},
    ],
    ids=lambda s: "-".join(s) or "default",
)
def test_a_random_network_computes_what_diffusers_computes(settings, tmp_path):
    theirs = random("DiTTransformer2DModel", **{**DIT, **settings})
    model = dr.load(saved(theirs, tmp_path), schedule=LINEAR)
    x, t = inputs(4)
    close(whole(model(x, LINEAR.at(t), y=Y)), theirs(x, timestep=t, class_labels=Y).sample)
    assert model.network.config["layout"] == "diffusers_dit"
    assert model.input.latent


def test_a_converted_official_model_keeps_the_official_frequencies(tmp_path):
    theirs = converted_from_official(random("DiTTransformer2DModel", **DIT))
    model = dr.load(saved(theirs, tmp_path), schedule=LINEAR)
    x, t = inputs(4)
    ours = whole(model(x, LINEAR.at(t), y=Y))
    shifted = theirs(x, timestep=t, class_labels=Y).sample
    assert float((ours.detach() - shifted).abs().max()) > 0.01 * float(shifted.abs().max())
    close(ours, with_official_mathematics(theirs)(x, timestep=t, class_labels=Y).sample)
    assert model.network.config["layout"] == "dit"


@pytest.mark.parametrize("official", [True, False])
def test_the_caller_may_decide_about_the_frequencies(official, tmp_path):
    theirs = random("DiTTransformer2DModel", **DIT)
    theirs = theirs if official else converted_from_official(theirs)
    shift = {"downscale_freq_shift": 0 if official else 1}
    model = dr.load(saved(theirs, tmp_path), schedule=LINEAR, architecture=shift)
    x, t = inputs(4)
    expected = with_official_mathematics(theirs) if official else theirs
    close(whole(model(x, LINEAR.at(t), y=Y)), expected(x, timestep=t, class_labels=Y).sample)


def test_a_model_under_its_name_on_the_hub(tmp_path):
    theirs = converted_from_official(random("DiTTransformer2DModel", **DIT))
    folder = saved(theirs, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config = {**config, "_class_name": "Transformer2DModel", "norm_type": "ada_norm_zero"}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "norm_eps"}))
    model = dr.load(folder, schedule=LINEAR)
    x, t = inputs(4)
    expected = with_official_mathematics(theirs)(x, timestep=t, class_labels=Y).sample
    close(whole(model(x, LINEAR.at(t), y=Y)), expected)


def test_of_one_block_it_must_be_told_whose_frequencies_it_has(tmp_path):
    theirs = random("DiTTransformer2DModel", **{**DIT, "num_layers": 1})
    folder = saved(theirs, tmp_path)
    with pytest.raises(FormatError, match="downscale_freq_shift"):
        dr.load(folder)
    x, t = inputs(4)
    model = dr.load(folder, schedule=LINEAR, architecture={"downscale_freq_shift": 1})
    close(whole(model(x, LINEAR.at(t), y=Y)), theirs(x, timestep=t, class_labels=Y).sample)


def test_blocks_are_taps_as_maps(tmp_path):
    theirs = random("DiTTransformer2DModel", **DIT)
    model = dr.load(saved(theirs, tmp_path), schedule=LINEAR)
    seen = []
    for block in theirs.transformer_blocks:
        block.register_forward_hook(lambda m, i, out: seen.append(out))
    x, t = inputs(4)
    theirs(x, timestep=t, class_labels=Y)
    maps = dr.read(model, x, LINEAR.at(t), ["block.1", "block.2"], y=Y)
    for value, tokens in zip(maps.values(), seen, strict=True):
        close(value, tokens.transpose(1, 2).reshape(2, 24, 4, 4))


@pytest.mark.parametrize("official", [True, False])
def test_it_is_saved_and_loaded_without_diffusers(official, tmp_path):
    theirs = random("DiTTransformer2DModel", **DIT)
    model = dr.load(saved(converted_from_official(theirs) if official else theirs, tmp_path / "a"), schedule=LINEAR)
    again = dr.load(dr.save(model, tmp_path / "ours"))
    x, t = inputs(4)
    assert torch.equal(again(x, LINEAR.at(t)).eps, model(x, LINEAR.at(t)).eps)
    assert again.identity == model.identity


@pytest.mark.parametrize("official", [True, False])
def test_every_tensor_of_ours_has_a_name_of_theirs(official, tmp_path):
    theirs = random("DiTTransformer2DModel", **DIT)
    folder = saved(converted_from_official(theirs) if official else theirs, tmp_path)
    ours = {official_name(name).replace("to_q, to_k or to_v", "to_k") for name in dr.load(folder).network.state_dict()}
    names = {name for name in theirs.state_dict() if ".to_q." not in name and ".to_v." not in name}
    assert ours - {"positions"} <= names
    assert official or names == ours - {"positions"}


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        ({"norm_type": "layer_norm"}, "norm_type"),
        ({"norm_elementwise_affine": True}, "norm_elementwise_affine"),
        ({"activation_fn": "geglu"}, "activation_fn"),
        ({"num_layers": 3}, "missing"),
        ({"num_layers": 1}, "left over"),
        ({"out_channels": 12}, "gives 12"),
        ({"sample_size": 20_000}, "too large"),
        ({"num_embeds_ada_norm": None, "num_attention_heads": None}, "num_attention_heads, num_embeds_ada_norm"),
    ],
)
def test_a_config_that_does_not_tell_or_fit_is_refused(edit, named, tmp_path):
    folder = saved(random("DiTTransformer2DModel", **DIT), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config = {k: edit.get(k, v) for k, v in config.items() if not (k in edit and edit[k] is None)}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(FormatError, match=named):
        dr.load(folder)
