"""Every preset trains on tiny models of its classes, and its export opens and draws in diffusers."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from emoji_ldm.config import load
from emoji_ldm.dataset import checkpoints
from emoji_ldm.generate.offline_sampler import OfflineSampler
from emoji_ldm.generate.pipeline_loader import load_model
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.train.checkpoint_export import export_checkpoint
from emoji_ldm.train.export_description import ExportRequest
from emoji_ldm.train.loop import fit
from emoji_ldm.train.tasks import autoencoder_task, diffusion_task
from emoji_ldm.train.training_args import build_training_args
from tests.latents_store import fill_captioned, fill_encoded
from tests.tiny_pipelines import write_clip, write_pipeline, write_vae, write_vqvae
from tests.unit.train import tiny

BETAS = {"beta_start": 0.00085, "beta_end": 0.012}  # of every Stable Diffusion
SHORT = ("train.steps=2", "train.batch_size=2", "train.sample_every=null", "latents.size_px=32")
NARROW = ("train.layers_per_block=1", "train.num_heads=2")
SCRATCH = (*SHORT, *NARROW, "train.block_out_channels=[8, 16]", "latents.max_tokens=16",
           "latents.vae={}/vae", "latents.text_encoder={}/clip")  # fmt: skip
TUNED = (*SHORT, "latents.max_tokens=16")
STARTER = (*SHORT, *NARROW, "train.block_out_channels=[8, 16]", "autoencoder.steps=2", "autoencoder.batch_size=2",
           "autoencoder.size_px=32", "autoencoder.block_out_channels=[16, 16]")  # fmt: skip
PRESETS = {
    "scratch-32": SCRATCH,
    "scratch-64": SCRATCH,
    "finetune-sd": (*TUNED, "train.init={}/sd"),
    "lora": (*TUNED, "train.init={}/sd"),
    "celebahq-256": (*SHORT, *NARROW, "train.block_out_channels=[8, 8, 16, 16]", "latents.max_tokens=16",
                     "latents.vae={}/ldm", "latents.text_encoder={}/clip"),
    "sd21-v": (*TUNED, "train.micro_batch_size=1", "train.init={}/sd21"),
    "starter": STARTER,
    "dit-emoji": (*SHORT, "autoencoder.steps=2", "autoencoder.batch_size=2", "autoencoder.size_px=32",
                  "autoencoder.block_out_channels=[16, 16]", "train.warmup_steps=1",
                  "train.transformer={{width: 32, depth: 2, num_heads: 2, patch_size: 2}}"),
    "starter with vq": (*STARTER, "autoencoder.kind=vq", "autoencoder.codebook_size=32"),
}  # fmt: skip


ALONE = "lora alone"  # adapters of every kind, without a pipeline beside them
ALL = {**PRESETS, ALONE: (*PRESETS["lora"], "train.lora={{rank: 2, dora: true, text_encoder: true, fuse: false}}")}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A folder with tiny random models in place of the hub's."""
    folder = tmp_path_factory.mktemp("hub")
    write_vae(folder / "vae")
    write_clip(folder / "clip")
    write_vqvae(folder / "ldm" / "vqvae")
    write_pipeline(folder / "sd", channels=3, **BETAS)
    write_pipeline(folder / "sd21", channels=3, linear=True, prediction_type="v_prediction", **BETAS)
    return folder


@pytest.fixture(scope="module")
def trained(hub, tmp_path_factory):
    """{preset: (task, folder of its last checkpoint)}, trained when first asked for."""
    done = {}

    def train(name):
        if name not in done:
            folder = tmp_path_factory.mktemp(name.split()[0])
            overrides = [f"store={folder / 'store'}", *(text.format(hub) for text in ALL[name])]
            config = load(name.split()[0], overrides)
            run_context = tiny.run_context(config, folder)
            captions = fill_captioned(run_context.store)
            if config.latents.vae == "own":
                fit(
                    autoencoder_task.load_task(run_context),
                    build_training_args(config, "autoencoder"),
                    run_context,
                    torch.device("cpu"),
                )
            fill_encoded(config, captions)
            task = diffusion_task.load_task(run_context)
            fit(task, build_training_args(config, "train"), run_context, torch.device("cpu"))
            done[name] = (
                task,
                checkpoints.newest_checkpoint(run_context.store, config.run, "unet").fetch(folder / "cache"),
            )
        return done[name]

    return train


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_trains_and_its_pipeline_draws_the_same_in_diffusers(trained, name):
    _, checkpoint = trained(name)
    ours = "train.init={}" not in " ".join(PRESETS[name])  # a text encoder whose padding we zero
    pipeline = DiffusionPipeline.from_pretrained(checkpoint / "pipeline", trust_remote_code=ours)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a blob", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[0]
    assert (image.size, image.mode) == ((32, 32), "RGBA" if "own" in load(name.split()[0], []).latents.vae else "RGB")
    assert OfflineSampler(load_model(checkpoint / "pipeline", "cpu"), 1)(
        [GenerationRequest("a blob", seed=0, steps=2)]
    )[0].shape == (
        32,
        32,
        4,
    )


@pytest.mark.slow
def test_weights_that_a_pattern_leaves_out_are_never_changed(trained, hub):
    task, checkpoint = trained("finetune-sd")
    theirs = DiffusionPipeline.from_pretrained(hub / "sd").unet.state_dict()
    ours = DiffusionPipeline.from_pretrained(checkpoint / "pipeline").unet.state_dict()
    changed = {name for name in theirs if not torch.equal(theirs[name], ours[name])}
    assert changed and all("attn2" in name for name in changed)
    live = task.module.unet.state_dict()
    assert all(torch.equal(live[name], theirs[name]) for name in theirs if "attn2" not in name)
    stored = {name for path in (checkpoint / "state").glob("*.safetensors") for name in load_file(path)}
    assert all("attn2" in name for name in stored)


@pytest.mark.slow
def test_adapters_are_a_small_file_that_diffusers_opens(trained, hub):
    _, checkpoint = trained("lora")
    pipeline = DiffusionPipeline.from_pretrained(hub / "sd")
    pipeline.load_lora_weights(checkpoint / "pipeline" / "lora")
    fused = DiffusionPipeline.from_pretrained(checkpoint / "pipeline").unet
    inputs = torch.randn(1, 4, 16, 16), 5, torch.randn(1, 4, 32)
    with torch.no_grad():
        torch.testing.assert_close(pipeline.unet(*inputs).sample, fused(*inputs).sample, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_checkpoint_of_adapters_alone_is_exported_and_opens_in_diffusers(trained, hub, tmp_path):
    task, checkpoint = trained(ALONE)
    assert not (checkpoint / "pipeline").exists() and sum(f.stat().st_size for f in checkpoint.rglob("lora/*")) < 3e5
    for weights in ("ema", "raw"):
        facts = export_checkpoint(task.config, ExportRequest("train", weights), tmp_path / weights, tmp_path / "cache")
        assert facts["weights"] == weights
        pipeline = DiffusionPipeline.from_pretrained(hub / "sd")
        before = pipeline.text_encoder(torch.tensor([[1, 2, 3]]))[0]
        pipeline.load_lora_weights(tmp_path / weights)
        assert not torch.equal(pipeline.text_encoder(torch.tensor([[1, 2, 3]]))[0], before)
        assert pipeline.unet.peft_config["default_0"].use_dora
        assert "load_lora_weights" in (tmp_path / weights / "README.md").read_text()


@pytest.mark.slow
def test_latents_of_all_augmentations_are_used(trained):
    task, _ = trained("finetune-sd")
    assert len(task.data.latents.mean) == 4 * len(task.data.latents.image_ids)
