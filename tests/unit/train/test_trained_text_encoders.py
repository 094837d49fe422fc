"""The CLIPs of SDXL, Stable Diffusion 3 and Flux are trained beside the network, and diffusers draws with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from emoji_ldm.dataset import checkpoints
from emoji_ldm.generate.offline_sampler import OfflineSampler
from emoji_ldm.generate.pipeline_loader import load_model, with_lora
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.latents.pipeline_text_encoder import load_prompt_encoder
from emoji_ldm.model.architectures.trained_text import TRAINED_TEXT_PARTS, join_text
from emoji_ldm.store import Store
from emoji_ldm.train.tasks import diffusion_task
from tests.unit.train import tiny
from tests.unit.train.test_architectures import FUSED, WHOLE, WRITERS, drawn, prepared, trained

pytestmark = pytest.mark.slow

LEARN = "train.lora.text_encoder=true"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    return {name: write(folder / name) for name, write in WRITERS.items()}


@pytest.mark.parametrize("name", WRITERS)
def test_before_the_first_step_the_encoders_give_the_states_of_diffusers(name, hub, tmp_path):
    task = diffusion_task.load_task(tiny.run_context(prepared(tmp_path, name, hub, LEARN), tmp_path))
    captions = list(task.data.latents.captions)[:3]
    encoders = {part: getattr(task.module, part) for part in task.module.text_parts}
    joined = join_text(task.module.architecture.pipeline, encoders, task.data.text([0, 1, 2]))
    exact = np.stack(load_prompt_encoder(str(hub[name]), max_tokens=16, device="cpu").encode(captions))
    # The states of T5 come from the cache, where they are rounded.
    torch.testing.assert_close(joined, torch.from_numpy(exact), atol=1e-5 if name == "sdxl" else 0.02, rtol=0.01)


@pytest.mark.parametrize("name", WRITERS)
def test_adapters_of_all_encoders_train_resume_and_draw_in_diffusers_and_in_our_engine(name, hub, tmp_path):
    config = prepared(tmp_path, name, hub, FUSED, LEARN)
    task, checkpoint = trained(config, tmp_path)
    parts = TRAINED_TEXT_PARTS[task.module.architecture.pipeline]
    adapters = load_file(checkpoint / "pipeline" / "lora" / "pytorch_lora_weights.safetensors")
    assert all(any(key.startswith(f"{part}.") for key in adapters) for part in parts)
    fused = drawn(checkpoint / "pipeline")
    torch.testing.assert_close(drawn(hub[name], checkpoint / "pipeline" / "lora"), fused, atol=2e-5, rtol=0)
    ours, theirs = (DiffusionPipeline.from_pretrained(path) for path in (checkpoint / "pipeline", hub[name]))
    for part in parts:
        pairs = zip(getattr(ours, part).parameters(), getattr(theirs, part).parameters(), strict=True)
        assert any(not torch.equal(one, other) for one, other in pairs)
    request = GenerationRequest("a cat", seed=0, steps=2, guidance_scale=1.0, width_px=32, height_px=32)
    whole, added = (load_model(checkpoint / "pipeline", "cpu"),
                    with_lora(load_model(hub[name], "cpu"), checkpoint / "pipeline" / "lora"))  # fmt: skip
    latents = [OfflineSampler(model, 1).latents([request]) for model in (whole, added)]
    torch.testing.assert_close(*latents, atol=1e-4, rtol=0)
    before = {path.name: load_file(path) for path in (checkpoint / "state").glob("*.safetensors")}
    store = Store(config.store)
    store.delete(checkpoints.newest_checkpoint(store, config.run, "unet").path)
    _, again = trained(config, tmp_path)
    for path in (again / "state").glob("*.safetensors"):
        found = load_file(path)
        assert all(torch.equal(found[key], before[path.name][key]) for key in found)


def test_both_encoders_of_sdxl_train_in_full(hub, tmp_path):
    config = prepared(
        tmp_path, "sdxl", hub, WHOLE, "train.ema_decay=0", "train.steps=2", "train.train_text_encoder=true"
    )
    task, checkpoint = trained(config, tmp_path)
    pipeline = DiffusionPipeline.from_pretrained(checkpoint / "pipeline")
    for part in ("text_encoder", "text_encoder_2"):
        live, exported = getattr(task.module, part).state_dict(), getattr(pipeline, part).state_dict()
        assert live.keys() == exported.keys() and all(torch.equal(live[key], exported[key]) for key in live)


def test_webuis_find_both_encoders_of_sdxl_under_their_numbers(hub, tmp_path):
    _, checkpoint = trained(prepared(tmp_path, "sdxl", hub, "train.steps=2", FUSED, LEARN), tmp_path)
    kohya = checkpoint / "pipeline" / "lora" / "kohya.safetensors"
    names = load_file(kohya)
    assert {key.split("_text_model")[0] for key in names if key.startswith("lora_te")} == {"lora_te1", "lora_te2"}
    pipeline = DiffusionPipeline.from_pretrained(hub["sdxl"])
    pipeline.load_lora_weights(kohya.parent, weight_name=kohya.name)
    assert set(pipeline.get_list_adapters()) == {"unet", "text_encoder", "text_encoder_2"}
