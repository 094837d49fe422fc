"""A trained text encoder: it starts at its cached states, and the export holds its trained weights."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch
from diffusers import DiffusionPipeline

from emoji_ldm.config import load
from emoji_ldm.errors import ConfigError, ModelError
from emoji_ldm.generate.pipeline_loader import load_model
from emoji_ldm.latents.text_encoder import load_text_encoder
from emoji_ldm.latents.vae import load_vae
from emoji_ldm.model.unet import pipeline_folder
from emoji_ldm.store import Store
from emoji_ldm.train.tasks.diffusion_task import DiffusionTask
from emoji_ldm.train.tasks.pipeline_export import FrozenModels, check_init, export_pipeline, load_frozen
from tests.unit.train import tiny

LEARN = "train.train_text_encoder=true"
TOKENS = 16


@pytest.fixture(scope="module")
def own_encoder(tiny_pipeline, tmp_path_factory):
    """A folder with the pipeline's encoder alone, whose padding we zero."""
    folder = tmp_path_factory.mktemp("encoder")
    for part in ("text_encoder", "tokenizer"):
        shutil.copytree(tiny_pipeline / part, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture(params=["of a pipeline", "our own"])
def frozen(request, tiny_pipeline, own_encoder):
    source = tiny_pipeline if request.param == "of a pipeline" else own_encoder
    text = load_text_encoder(str(source), max_tokens=TOKENS, device="cpu")
    assert text.masked == (request.param == "our own")
    return FrozenModels(load_vae(tiny_pipeline, size_px=32, background="white", device="cpu"), text)


def task(frozen, *overrides):
    latents = tiny.latent_set(shape=(4, 16, 16))
    latents = dataclasses.replace(latents, states=frozen.text.encode(latents.captions))
    config = tiny.config(f"latents.max_tokens={TOKENS}", "latents.size_px=32", "train.caption_dropout=0.5", *overrides)
    return DiffusionTask(config, latents, frozen)


def trained(learning, steps=2):
    """What a learning task's weights are after some steps."""
    parameters = [parameter for parameter in learning.module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    for step in range(steps):
        learning.loss(learning.module, learning.prepare_batch(step, range(4))).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: p.detach().clone() for name, p in learning.module.named_parameters() if p.requires_grad}


def test_before_the_first_step_training_it_or_not_gives_the_same_loss(frozen):
    plain, learning = task(frozen), task(frozen, LEARN)
    for step in range(2):
        losses = [each.loss(each.module, each.prepare_batch(step, range(4))).item() for each in (plain, learning)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.slow
def test_what_it_learned_is_exported_and_sampled_as_diffusers_does(frozen, tmp_path):
    learning = task(frozen, LEARN)
    before = {name: tensor.clone() for name, tensor in frozen.text.model.state_dict().items()}
    weights = trained(learning)
    learning.export(weights, tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in frozen.text.model.state_dict().items())
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "pipeline", trust_remote_code=frozen.text.masked)
    ours = load_model(tmp_path / "pipeline", "cpu")
    changed = [name for name, tensor in pipeline.text_encoder.state_dict().items() if not tensor.equal(before[name])]
    assert any("layers.0" in name for name in changed)
    assert all(torch.equal(tensor, weights[f"text_encoder.{name}"])
               for name, tensor in pipeline.text_encoder.named_parameters())  # fmt: skip
    with torch.inference_mode():
        wanted = pipeline.encode_prompt("a blob", "cpu", 1, do_classifier_free_guidance=False)[0]
    torch.testing.assert_close(ours.encode_prompt("a blob"), wanted, rtol=1e-5, atol=1e-5)


def test_its_own_drop_out_stays_off_and_unused_weights_stay_as_they_are():
    from transformers import BertConfig, BertModel

    from emoji_ldm.model.denoiser import build_denoiser

    bert = BertModel(BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
                                intermediate_size=8))  # fmt: skip
    denoiser = build_denoiser(tiny.config().train, (4, 8, 8), 8, {"text_encoder": bert}).train()
    assert not any(module.training for module in denoiser.text_encoder.modules())
    assert denoiser.unet.training
    frozen = [name for name, parameter in denoiser.named_parameters() if not parameter.requires_grad]
    assert frozen == ["text_encoder.pooler.dense.weight", "text_encoder.pooler.dense.bias"]


def test_an_export_without_the_text_encoders_weights_is_refused(frozen, tmp_path):
    learning = task(frozen, LEARN)
    weights = {name: tensor for name, tensor in trained(learning, 1).items() if name.startswith("unet.")}
    with pytest.raises(ModelError, match="weights are of another text encoder"):
        export_pipeline(learning.config, frozen, weights, tmp_path)


def test_all_parts_may_be_those_of_the_pipeline_to_start_from(tiny_pipeline, tmp_path):
    checkpoint = tmp_path / "step-00000001"  # holds a pipeline, as ours do
    checkpoint.mkdir()
    (checkpoint / "pipeline").symlink_to(tiny_pipeline)
    config = load(None, [f"train.init={checkpoint}", "latents.vae=init", "latents.text_encoder=init",
                         "latents.size_px=32", "latents.max_tokens=16", "train.beta_start=0.0001",
                         "train.beta_end=0.02", "train.prediction_type=epsilon"])  # fmt: skip
    found = load_frozen(config, Store(str(tmp_path / "store")), tmp_path)
    assert found.vae.key == load_vae(tiny_pipeline, size_px=32, background="white", device="cpu").key
    assert found.text.key == load_text_encoder(str(tiny_pipeline), max_tokens=TOKENS, device="cpu").key
    assert pipeline_folder(config.train.init) == checkpoint / "pipeline"


def test_a_pipeline_of_another_objective_is_refused(tiny_pipeline):
    config = load(None, [f"train.init={tiny_pipeline}"])
    with pytest.raises(ConfigError, match=r"set train\.prediction_type=epsilon"):
        check_init(config)


def test_vae_init_needs_a_pipeline_to_start_from():
    with pytest.raises(ConfigError, match=r"overrides: latents\.vae=init is that of train\.init, which is empty"):
        load(None, ["latents.vae=init"])
