"""The flags of guided-diffusion and improved-diffusion, as each counts them; other ways to write their files."""

import pytest
import torch

import diffrep as dr
from diffrep.errors import FormatError
from diffrep.formats.state_dicts import KEYS
from diffrep.randomness import generator
from tests.formats.test_guided_diffusion import FACTS, random_network, written


def test_cosine_schedule_and_the_command_line_s_names(tmp_path):
    flags = {k: v for k, v in FACTS.items() if k != "steps"}
    flags |= {"diffusion_steps": 400, "noise_schedule": "cosine", "num_channels": 32, "attention_resolutions": "4"}
    denoiser = dr.load(written(tmp_path, random_network(), flags))
    assert denoiser.schedule == dr.DiscreteSchedule.cosine(400)
    assert denoiser.sampling.rule == "guided-diffusion"
    for sizes in (["4"], [4], 4, "4,2", [3]):  # 8 // 3 is level 2 as well
        told = {**flags, "attention_resolutions": ",".join(sizes) if sizes == ["4"] else sizes}
        assert dr.load(tmp_path / "model.pt", architecture=told).identity == denoiser.identity
    with pytest.raises(FormatError, match="attention_resolutions is 8"):
        dr.load(tmp_path / "model.pt", architecture={**flags, "attention_resolutions": 8})


def test_improved_diffusion_has_one_order_of_attention(tmp_path):
    """Its flags have `sigma_small`, and none of what guided-diffusion added."""
    flags = {"image_size": 8, "num_channels": 32, "num_res_blocks": 1, "num_heads": 4, "attention_resolutions": "4"}
    flags |= {"diffusion_steps": 4000, "noise_schedule": "cosine", "rescale_timesteps": True, "sigma_small": False}
    network = random_network(order="heads", resampling="conv", scale_shift=False)
    denoiser = dr.load(written(tmp_path, network, {**flags, "use_scale_shift_norm": False}))
    x = torch.randn(1, 3, 8, 8, generator=generator(0, "x"))
    with torch.no_grad():
        assert torch.equal(denoiser(x, denoiser.schedule.at(40)).eps, network(x, torch.tensor([10.0])))
    with pytest.raises(FormatError, match="use_new_attention_order"):
        dr.load(tmp_path / "model.pt", architecture={"num_head_channels": 16})


def test_widths_that_are_no_multiples(tmp_path):
    """A multiplier of 1.33 is cut to a whole width."""
    network = random_network(channels=96, multipliers=(1, 1.34), heads=1)
    denoiser = dr.load(written(tmp_path, network), architecture={**FACTS, "num_heads": 1, "channel_mult": [1, 1.34]})
    assert denoiser.network.config["multipliers"] == [1, 128 / 96]
    with pytest.raises(FormatError, match="channel_mult"):
        dr.load(tmp_path / "model.pt", architecture={**FACTS, "num_heads": 1, "channel_mult": [1, 1.4]})


def test_ancestral_steps_walk_the_program_s_own_grid(tmp_path):
    """`timestep_respacing="4"` is even from 0 to T - 1, `"ddim4"` has a whole stride."""
    denoiser = dr.load(written(tmp_path, random_network(), FACTS))
    rules = denoiser.sampling.path_rule("ddpm"), denoiser.sampling.path_rule("ddim")
    assert rules == ("linspace", "guided-diffusion")
    times = [denoiser.schedule.time_of(denoiser.schedule.path(4, rule=rule)[:-1]).tolist() for rule in rules]
    assert times == [[999, 666, 333, 0], [750, 500, 250, 0]]


@pytest.mark.parametrize("wrapper", KEYS)
def test_a_state_dict_in_a_wrapper(tmp_path, wrapper):
    """Averaged weights come before the raw ones beside them."""
    file = written(tmp_path, random_network())
    plain = dr.load(file, architecture=FACTS).identity
    state = torch.load(file, weights_only=True)
    raw = {name: torch.full_like(tensor, 0.01) for name, tensor in state.items()}
    others = {name: raw for name in ("model", "state_dict", "model_state_dict")} if "ema" in wrapper else {}
    torch.save({**others, wrapper: state, "step": 3}, file)
    assert dr.load(file, architecture=FACTS).identity == plain


@pytest.mark.parametrize("key", ["ema", "shadow_params"])
def test_an_average_without_names_is_said_to_be_left_out(tmp_path, key, caplog):
    file = written(tmp_path, random_network())
    state = torch.load(file, weights_only=True)
    torch.save({"model": state, key: {"shadow": list(state.values())}}, file)
    dr.load(file, architecture=FACTS)
    assert f"raw weights are read; the averaged ones in {key}" in caplog.text
