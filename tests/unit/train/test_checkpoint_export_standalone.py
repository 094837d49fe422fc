"""An export opens in a process that has diffusers but not this package."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import AutoModel, VQModel

from emoji_ldm.generate.offline_sampler import OfflineSampler
from emoji_ldm.generate.pipeline_loader import load_model
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.latents import cache, vq_adapter
from emoji_ldm.latents.text_encoder import load_text_encoder
from emoji_ldm.latents.vae import load_vae
from emoji_ldm.train import checkpoint_export, export_description
from emoji_ldm.train.tasks.pipeline_export import FrozenModels, build_initial_denoiser, export_pipeline, has_custom_code
from tests.generation_requests import noise_for_seeds
from tests.tiny_pipelines import write_clip, write_vqvae
from tests.unit.train import tiny

PROMPT = "a happy blob"
OPEN = """
import sys

sys.modules["emoji_ldm"] = None  # as if it were not installed
import numpy as np
import torch
from diffusers import AutoModel, VQModel
from diffusers import DiffusionPipeline

torch.set_num_threads(1)
pipeline = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
image = pipeline(sys.argv[2], num_inference_steps=3, guidance_scale=3.0, output_type="np",
                 latents=torch.from_numpy(np.load(sys.argv[3])))
np.save(sys.argv[4], image.images[0])
"""


@pytest.mark.long
def test_an_export_draws_the_same_where_this_package_is_not_installed(tmp_path):
    torch.set_num_threads(1)
    write_vqvae(tmp_path / "vq")
    codec = load_vae(tmp_path / "vq", size_px=32, background="white", device="cpu")
    text = load_text_encoder(str(write_clip(tmp_path / "clip")), max_tokens=16, device="cpu")
    assert text.masked
    config, frozen, folder = tiny.config("latents.max_tokens=16"), FrozenModels(codec, text), tmp_path / "pipeline"
    denoiser = build_initial_denoiser(config, frozen, codec.latent_shape, text.width)
    export_pipeline(config, frozen, dict(denoiser.named_parameters()), folder)
    assert has_custom_code(folder)

    np.save(tmp_path / "noise.npy", noise_for_seeds([7], codec.latent_shape).numpy())
    words = [sys.executable, "-c", OPEN, "pipeline", PROMPT, "noise.npy", "image.npy"]
    run = subprocess.run(words, cwd=tmp_path, env={"HF_HOME": str(tmp_path)}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    theirs = np.round(np.load(tmp_path / "image.npy") * 255)
    ours = OfflineSampler(load_model(folder, "cpu"), 1)(
        [GenerationRequest(PROMPT, seed=7, steps=3, guidance_scale=3.0)]
    )[0]
    assert np.abs(ours[..., :3].astype(int) - theirs).max() <= 1
    assert ours[..., :3].std() > 5
    assert vq_adapter.DETERMINISTIC_LOGVAR == cache.DETERMINISTIC_LOGVAR


def test_a_quantised_autoencoder_by_itself_is_exported_as_diffusers_own(tmp_path):
    write_vqvae(tmp_path / "vq")
    load_vae(tmp_path / "vq", size_px=32, background="white", device="cpu").vae.save_pretrained(tmp_path / "ours")
    checkpoint_export._make_self_contained(tmp_path / "ours")
    assert type(AutoModel.from_pretrained(str(tmp_path / "ours"))) is VQModel


def test_the_card_says_how_it_opens(tmp_path):
    (tmp_path / "vae").mkdir()
    wanted = export_description.ExportRequest("train")
    assert 'DiffusionPipeline.from_pretrained(".")' in export_description._model_card(
        {"config": {"run": "demo"}}, 5, wanted, tmp_path
    )
    (tmp_path / "vae" / "emoji_ldm_latents_quantized.py").touch()
    assert '.from_pretrained(".", trust_remote_code=True)' in export_description._model_card(
        {"config": {"run": "demo"}}, 5, wanted, tmp_path
    )
