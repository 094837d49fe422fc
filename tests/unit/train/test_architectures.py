"""Pipelines of each real class load, train, resume bit by bit, export, and draw the trained pixels in diffusers."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from emoji_ldm.config import load
from emoji_ldm.dataset import checkpoints
from emoji_ldm.store import Store
from emoji_ldm.train.loop import fit
from emoji_ldm.train.tasks import diffusion_task
from emoji_ldm.train.training_args import build_training_args
from tests.latents_store import fill_captioned, fill_encoded
from tests.tiny_flow_pipelines import write_flux, write_sd3, write_sdxl
from tests.unit.train import tiny

pytestmark = pytest.mark.slow

WRITERS = {"sdxl": write_sdxl, "sd3": write_sd3, "flux": write_flux}
SHORT = ("train.steps=4", "train.batch_size=2", "train.micro_batch_size=2", "train.checkpoint_every=2",
         "train.sample_every=null", "train.log_every=1", "train.warmup_steps=1", "train.lr=1e-2",
         "train.precision=fp32", "train.gpus_per_worker=0", "latents.size_px=32", "latents.max_tokens=16",
         "train.deterministic=true", "latents.augmentations=null", "train.validation_fraction=0.2")  # fmt: skip
FUSED = "train.lora.fuse=true"
WHOLE = "train.lora=null"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    return {name: write(folder / name) for name, write in WRITERS.items()}


def prepared(folder, name, hub, *overrides):
    options = [f"store={folder / 'store'}", f"train.init={hub[name]}", *SHORT, *overrides]
    config = load(f"{name}-lora", options)
    fill_encoded(config, fill_captioned(Store(config.store)))
    return config


def trained(config, folder):
    context = tiny.run_context(config, folder)
    task = diffusion_task.load_task(context)
    fit(task, build_training_args(config, "train"), context, torch.device("cpu"))
    return task, checkpoints.newest_checkpoint(Store(config.store), config.run, "unet").fetch(folder / "cache")


def drawn(folder, lora=None):
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    if lora:
        pipeline.load_lora_weights(lora)
    generator = torch.Generator().manual_seed(0)
    size = {"height": 32, "width": 32, "num_inference_steps": 2, "output_type": "np"}
    tokens = {} if "XL" in type(pipeline).__name__ else {"max_sequence_length": 16}
    return torch.from_numpy(pipeline("a cat", generator=generator, **size, **tokens).images)


@pytest.mark.parametrize("name", WRITERS)
def test_adapters_train_and_resume_and_the_fused_pipeline_draws_what_base_and_adapters_draw(name, hub, tmp_path):
    config = prepared(tmp_path, name, hub, FUSED)
    _, checkpoint = trained(config, tmp_path)
    fused = drawn(checkpoint / "pipeline")
    # With the averages' weights: both files are of the same export.
    torch.testing.assert_close(drawn(hub[name], checkpoint / "pipeline" / "lora"), fused, atol=2e-5, rtol=0)
    assert (drawn(hub[name]) - fused).abs().max() > 1e-4
    before = {path.name: load_file(path) for path in (checkpoint / "state").glob("*.safetensors")}
    store = Store(config.store)
    store.delete(checkpoints.newest_checkpoint(store, config.run, "unet").path)
    _, again = trained(config, tmp_path)
    for path in (again / "state").glob("*.safetensors"):
        found = load_file(path)
        assert all(torch.equal(found[key], before[path.name][key]) for key in found)


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_diffusers_opens_the_comfyui_file_of_a_transformer(name, hub, tmp_path):
    _, checkpoint = trained(prepared(tmp_path, name, hub, "train.steps=2", FUSED), tmp_path)
    tensors = load_file(checkpoint / "pipeline" / "lora" / "comfyui.safetensors")
    layers = {key.removesuffix(".alpha") for key in tensors if key.endswith(".alpha")}
    assert layers and {key.rpartition(".lora_")[0] for key in tensors if ".lora_" in key} == layers
    assert all(key.startswith("transformer.") for key in tensors)


@pytest.mark.parametrize("name", WRITERS)
def test_the_whole_network_trains_and_the_other_parts_are_the_pipelines_own(name, hub, tmp_path):
    task, checkpoint = trained(prepared(tmp_path, name, hub, WHOLE, "train.ema_decay=0", "train.steps=2"), tmp_path)
    ours, theirs = (DiffusionPipeline.from_pretrained(path) for path in (checkpoint / "pipeline", hub[name]))
    part = task.module.architecture.part
    live, exported = task.module.network.state_dict(), getattr(ours, part).state_dict()
    assert live.keys() == exported.keys() and all(torch.equal(live[key], exported[key]) for key in live)
    assert dict(ours.scheduler.config) == dict(theirs.scheduler.config)
    for other in set(theirs.components) - {part, "scheduler"}:
        weights = getattr(getattr(theirs, other), "state_dict", dict)()
        assert all(torch.equal(getattr(ours, other).state_dict()[key], weights[key]) for key in weights)
    assert str(hub[name].parent) not in "".join(path.read_text() for path in checkpoint.rglob("pipeline/**/*.json"))


@pytest.mark.parametrize("name", WRITERS)
def test_training_gives_the_network_what_sampling_in_diffusers_gives_it(name, hub, tmp_path):
    config = prepared(tmp_path, name, hub, WHOLE)
    task = diffusion_task.load_task(tiny.run_context(config, tmp_path))
    network, calls = task.module.network, []
    pipeline = DiffusionPipeline.from_pretrained(hub[name])
    pipeline.set_progress_bar_config(disable=True)
    for module in (network, getattr(pipeline, task.module.architecture.part)):
        module.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    caption = next(each for each in task.data.latents.captions if each)
    text = task.data.text([task.data.latents.captions.index(caption)])
    shape = task.data.shape
    task.module(torch.zeros(1, *shape), torch.tensor([5 if name == "sdxl" else 5.5]), text)
    options = {} if name == "sdxl" else {"max_sequence_length": 16}
    pipeline(caption, height=32, width=32, num_inference_steps=1, guidance_scale=1.0, output_type="latent", **options)
    ours, theirs = ({**kwargs, **kwargs.pop("added_cond_kwargs", {})} for _, kwargs in calls)
    names = ("encoder_hidden_states", "pooled_projections", "text_embeds", "time_ids", "img_ids", "txt_ids", "guidance")
    compared = [key for key in names if key in theirs]
    assert len(compared) >= 2
    for key in compared:  # states are rounded in the cache
        torch.testing.assert_close(ours[key], theirs[key], atol=0.02, rtol=0.01)
    (first, *_), (second, *_) = ([*args, kwargs.get("hidden_states")] for args, kwargs in calls)
    assert first.shape == second.shape
