"""A word is learned while all weights stay as they are; diffusers draws it from the word's file or the pipeline."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from emoji_ldm.config import TextualInversionOptions, TrainConfig
from emoji_ldm.dataset import checkpoints
from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.offline_sampler import OfflineSampler
from emoji_ldm.generate.pipeline_loader import load_model
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.latents.text_encoder import expand_words, load_text_encoder
from emoji_ldm.model.textual_inversion import add_words, learn_words
from emoji_ldm.store import Store
from emoji_ldm.train.loop import fit
from emoji_ldm.train.tasks import diffusion_task
from emoji_ldm.train.training_args import build_training_args
from tests.latents_store import fill_latents
from tests.tiny_pipelines import write_pipeline
from tests.unit.train import tiny
from tests.unit.train.tasks.test_pipeline_export import tuned

PROMPT = "a <z>"


def drawn(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return torch.from_numpy(pipeline(PROMPT, num_inference_steps=2, generator=generator, output_type="np").images)


@pytest.mark.slow
def test_only_the_word_is_learned_and_diffusers_draws_it_from_its_file_and_from_the_pipeline(tmp_path):
    base = write_pipeline(tmp_path / "base")
    word = "train.textual_inversion={token: <z>, init: cat, num_vectors: 3}"
    config = tuned(base, tmp_path / "store", word, "train.lr=1", "train.steps=4", "train.dreambooth=null")
    config = config.model_copy(update={"run": "tiny"})
    fill_latents(config)
    context = tiny.run_context(config, tmp_path)
    task = diffusion_task.load_task(context)
    # The captions of the set do not have the word, so all of them are replaced by the prompt.
    tokenizer = task.frozen.text.tokenizer
    prompt = expand_words(tokenizer, PROMPT)
    ids = tokenizer(prompt, padding="max_length", max_length=16, return_tensors="pt").input_ids
    task.data.text = lambda captions: {"input_ids": ids.expand(len(captions), -1)}
    fit(task, build_training_args(config, "train"), context, torch.device("cpu"))
    checkpoint = checkpoints.newest_checkpoint(Store(config.store), "tiny", "unet").fetch(tmp_path / "cache")
    (learned,) = load_file(checkpoint / "pipeline" / "textual_inversion" / "learned_embeds.safetensors").values()
    assert learned.shape == (3, 32)
    stored = load_file(next(checkpoint.glob("state/*.safetensors")))
    assert all("learned" in name for name in stored)
    ours, stock = DiffusionPipeline.from_pretrained(checkpoint / "pipeline"), DiffusionPipeline.from_pretrained(base)
    before = drawn(stock)
    stock.load_textual_inversion(checkpoint / "pipeline" / "textual_inversion")
    assert torch.equal(drawn(ours), drawn(stock)) and not torch.equal(drawn(ours), before)
    for part in ("unet", "vae"):
        theirs = getattr(stock, part).state_dict()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in getattr(ours, part).state_dict().items())
    model = load_model(checkpoint / "pipeline", "cpu")
    states = ours.encode_prompt(PROMPT, "cpu", 1, False)[0]
    torch.testing.assert_close(model.encode_prompt(PROMPT), states.detach(), atol=1e-5, rtol=0)
    assert len(OfflineSampler(model, 1)([GenerationRequest(PROMPT, seed=0, steps=2)])) == 1


def test_a_word_of_several_vectors_stands_for_all_of_its_tokens(tiny_pipeline):
    text = load_text_encoder(str(tiny_pipeline), max_tokens=16, device="cpu")
    options = TextualInversionOptions(token="<z>", init="ab", num_vectors=3)
    assert expand_words(text.tokenizer, "a <z>") == "a <z>"
    add_words(text.tokenizer, options)
    assert expand_words(text.tokenizer, "a <z> b") == "a <z> <z>_1 <z>_2 b"
    before = text.model.get_input_embeddings().weight.clone()
    learn_words(text.model, text.tokenizer, options)
    first, second = (before[text.tokenizer(part, add_special_tokens=False).input_ids[0]] for part in ("ab", "b"))
    ids = text.tokenizer(expand_words(text.tokenizer, "<z>"), add_special_tokens=False, return_tensors="pt").input_ids
    assert torch.equal(text.model.get_input_embeddings()(ids)[0], torch.stack([first, second, first]))
    assert [name for name, p in text.model.named_parameters() if p.requires_grad] == [
        "embeddings.token_embedding.learned"
    ]


def test_what_cannot_be_learned_is_refused(tiny_pipeline):
    word = TextualInversionOptions(token="<z>", init="a")
    with pytest.raises(ConfigError, match=r"name it by train\.init"):
        TrainConfig(textual_inversion=word)
    with pytest.raises(ConfigError, match=r"train\.lora trains weights"):
        TrainConfig(textual_inversion=word, init="x", lora={"rank": 2})
    text = load_text_encoder(str(tiny_pipeline), max_tokens=16, device="cpu")
    add_words(text.tokenizer, word)
    with pytest.raises(ConfigError, match="a word that the text encoder knows"):
        add_words(text.tokenizer, word)
