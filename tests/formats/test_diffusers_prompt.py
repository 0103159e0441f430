"""Prompts read by the CLIPs of a pipeline: the embeddings that its own pipeline makes, and no foreign code."""

import json
import logging
import shutil

import pytest
import torch

import diffrep as dr
from diffrep.errors import FormatError
from tests.formats.diffusers_models import CONDITION, close, diffusers, inputs, random, saved

XL = {
    **CONDITION,
    "cross_attention_dim": 40,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 24,
}


def transformers():
    return pytest.importorskip("transformers", reason="needs transformers for CLIP")


def clip(width: int, name: str = "CLIPTextModel", seed: int = 0):
    sizes = {"hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = transformers().CLIPTextConfig(
            vocab_size=54, bos_token_id=0, eos_token_id=1, pad_token_id=1, projection_dim=width, **sizes
        )
        return getattr(transformers(), name)(config).eval()


def tokenizer(folder):
    letters = [chr(c) for c in range(97, 123)]
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({word: k for k, word in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    settings = {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return transformers().CLIPTokenizer.from_pretrained(folder)


def pipeline(folder, config=CONDITION, encoders=None, **index):
    """A pipeline's folder with a network, a scheduler and CLIPs; what diffusers' own encoders make of a text."""
    saved(random("UNet2DConditionModel", **config), folder, diffusers().DDIMScheduler())
    told = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**told, **index}))
    models = encoders or [clip(16)]
    for k, model in enumerate(models):
        end = f"_{k + 1}" if k else ""
        model.save_pretrained(folder / f"text_encoder{end}")
        words = tokenizer(folder / f"tokenizer{end}")

    def encode(text):
        tokens = words(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            return [model(tokens, output_hidden_states=True) for model in models]

    return encode


@pytest.mark.parametrize("form", ["safetensors", "bin", "fp16", "shards", "older names"])
def test_the_prompt_is_read_by_the_clip_beside_the_network(form, tmp_path, caplog):
    encode = pipeline(tmp_path)
    folder, model = tmp_path / "text_encoder", clip(16)
    weights = folder / "model.safetensors"
    if form == "fp16":
        weights.rename(folder / "model.fp16.safetensors")
    elif form == "shards":
        weights.unlink()
        model.save_pretrained(folder, max_shard_size="4KB")
    elif form != "safetensors":
        weights.unlink()
        prefix = "text_model." if form == "older names" else ""
        state = {f"{prefix}{name.removeprefix(prefix)}": tensor for name, tensor in model.state_dict().items()}
        torch.save({**state, f"{prefix}embeddings.position_ids": torch.arange(77)[None]}, folder / "pytorch_model.bin")
    with caplog.at_level(logging.WARNING):
        empty = dr.load(tmp_path)
        cat = dr.load(tmp_path / "unet", architecture={"prompt": "a cat"})
    assert "all zeros" not in caplog.text
    close(empty.network.encoder_hidden_states, encode("")[0].last_hidden_state)
    close(cat.network.encoder_hidden_states, encode("a cat")[0].last_hidden_state)


@pytest.mark.parametrize("zeros", [True, False])
def test_xl_reads_the_prompt_with_both(zeros, tmp_path):
    encoders = [clip(16), clip(24, "CLIPTextModelWithProjection", seed=1)]
    encode = pipeline(tmp_path, XL, encoders, force_zeros_for_empty_prompt=zeros)
    for prompt in ("a cat", ""):
        told = dr.load(tmp_path, architecture={"prompt": prompt}).network
        first, second = encode(prompt)
        states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        blank = zeros and not prompt
        close(told.encoder_hidden_states, 0 * states if blank else states)
        close(told.text_embeds, 0 * second.text_embeds if blank else second.text_embeds)


def test_nothing_of_an_encoders_config_but_its_numbers_is_used(tmp_path):
    pipeline(tmp_path)
    config = tmp_path / "text_encoder" / "config.json"
    told = json.loads(config.read_text())
    strange = {"_attn_implementation": "someone/kernels", "quantization_config": {"quant_method": "mine"}}
    config.write_text(json.dumps({**told, **strange}))
    model = dr.load(tmp_path, architecture={"prompt": "cat"})
    assert model.network.encoder_hidden_states.abs().max() > 0
    config.write_text(json.dumps({**told, "auto_map": {"AutoModel": "evil.Evil"}}))
    with pytest.raises(FormatError, match="no CLIP"):
        dr.load(tmp_path, architecture={"prompt": "cat"})


def test_prompts_that_cannot_be_read_are_refused(tmp_path):
    pipeline(tmp_path)
    with pytest.raises(FormatError, match="one text"):
        dr.load(tmp_path, architecture={"prompt": ["a cat", "a dog"]})
    broken = tmp_path / "text_encoder" / "config.json"
    told = json.loads(broken.read_text())
    for change, named in (({"hidden_act": "nothing"}, "broken"), ({"num_hidden_layers": 3}, "missing")):
        broken.write_text(json.dumps({**told, **change}))
        with pytest.raises(FormatError, match=named):
            dr.load(tmp_path, architecture={"prompt": "cat"})
    shutil.rmtree(tmp_path / "text_encoder")
    with pytest.raises(FormatError, match="no CLIP of width 16"):
        dr.load(tmp_path, architecture={"prompt": "cat"})
    x, t = inputs(4)
    model = dr.load(tmp_path)
    assert model(x, model.schedule.at(t)).eps.isfinite().all()
