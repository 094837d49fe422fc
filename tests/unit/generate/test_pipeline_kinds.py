"""SDXL, Stable Diffusion 3 and Flux drawn by the engine: latents and pixels of diffusers' own pipelines."""

from __future__ import annotations

import io
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.checkpoint_resolver import model_key, read_model_limits
from emoji_ldm.generate.continuous_batching.batcher import ContinuousBatcher
from emoji_ldm.generate.offline_sampler import OfflineSampler
from emoji_ldm.generate.pipeline_kinds import pipeline_kind
from emoji_ldm.generate.pipeline_loader import load_model, with_lora
from emoji_ldm.generate.prompt_text import prompt_warnings
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.model.lora import save_adapters
from tests.tiny_flow_pipelines import write_flux, write_sd3, write_sdxl

pytestmark = pytest.mark.slow

WRITERS = {"sdxl": write_sdxl, "sd3": write_sd3, "flux": write_flux}
SIZE = {"width_px": 32, "height_px": 32}  # Flux's own size would be 1,024 px in place of the others' 32


def request(name, **fields):
    given = {"seed": 5, "steps": 6, "guidance_scale": 3.5, **SIZE, **fields}
    if name != "flux":
        given = {"negative_prompt": "sad", **given}
    return GenerationRequest("a happy cat", **given)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("kinds")
    return {name: write(root / name) for name, write in WRITERS.items()}


@pytest.fixture(scope="module")
def samplers(folders):
    return {name: OfflineSampler(load_model(folder, "cpu"), batch_size=4) for name, folder in folders.items()}


def diffusers_latents(pipeline, asked, **options):
    """What diffusers' pipeline draws, unpacked to `(1, C, h, w)`."""
    pipeline.set_progress_bar_config(disable=True)
    if "XL" in type(pipeline).__name__:
        # Our default for models that predict noise.
        pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    else:
        options["max_sequence_length"] = 16
    options["height"], options["width"] = asked.height_px, asked.width_px
    if asked.negative_prompt:
        options["negative_prompt"] = asked.negative_prompt
    found = pipeline(
        asked.prompt, num_inference_steps=asked.steps, guidance_scale=asked.guidance_scale,
        generator=[torch.Generator().manual_seed(asked.seed)], output_type="latent", **options,
    ).images  # fmt: skip
    if found.dim() == 3:
        found = pipeline._unpack_latents(found, asked.height_px, asked.width_px, pipeline.vae_scale_factor)
    return found


@pytest.mark.parametrize("guidance", [1.0, 4.5])
@pytest.mark.parametrize("name", WRITERS)
def test_latents_equal_diffusers(folders, samplers, name, guidance):
    asked = request(name, guidance_scale=guidance)
    expected = diffusers_latents(DiffusionPipeline.from_pretrained(folders[name]), asked)
    torch.testing.assert_close(samplers[name].latents([asked]), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", WRITERS)
def test_another_size_and_number_of_steps_equal_diffusers(folders, samplers, name):
    # The schedule of Flux depends on the size, and so do the size inputs of SDXL and positions of all.
    asked = request(name, width_px=48, height_px=24, steps=3)
    expected = diffusers_latents(DiffusionPipeline.from_pretrained(folders[name]), asked)
    torch.testing.assert_close(samplers[name].latents([asked]), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", WRITERS)
def test_pixels_equal_diffusers(folders, samplers, name):
    asked = request(name, steps=4)
    pipeline = DiffusionPipeline.from_pretrained(folders[name])
    latents = diffusers_latents(pipeline, asked) / pipeline.vae.config.scaling_factor
    with torch.inference_mode():
        decoded = pipeline.vae.decode(latents + (pipeline.vae.config.shift_factor or 0)).sample
    expected = pipeline.image_processor.postprocess(decoded, output_type="np")[0] * 255
    found = samplers[name]([asked])[0]
    assert np.abs(found[..., :3] - expected).max() <= 1 and (found[..., 3] == 255).all()


@pytest.mark.parametrize("name", WRITERS)
def test_mixed_rows_of_one_batch_equal_each_drawn_alone(samplers, name):
    asked = [
        request(name, seed=seed, steps=steps, guidance_scale=scale)
        for seed, steps, scale in ((1, 3, 1.0), (2, 7, 4.0), (3, 5, 2.5), (4, 1, 3.0), (5, 4, 1.5))
    ]
    together = samplers[name](asked)
    for one, image in zip(asked, together, strict=True):
        np.testing.assert_array_equal(samplers[name]([one])[0], image)
    assert len({image.tobytes() for image in together}) == len(asked)


IMAGE_PIPELINES = {"sdxl": "StableDiffusionXLImg2ImgPipeline", "sd3": "StableDiffusion3Img2ImgPipeline",
                   "flux": "FluxImg2ImgPipeline"}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_image_to_image_equals_diffusers(folders, samplers, name):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    asked = request(name, image=stream.getvalue(), strength=0.6)
    pipeline = getattr(diffusers, IMAGE_PIPELINES[name]).from_pretrained(folders[name])
    options = {"image": Image.fromarray(pixels), "strength": 0.6}
    if name == "sdxl":  # has no size of its own
        pipeline.set_progress_bar_config(disable=True)
        pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
        expected = pipeline(
            asked.prompt, negative_prompt=asked.negative_prompt, num_inference_steps=6, guidance_scale=3.5,
            generator=[torch.Generator().manual_seed(5)], output_type="latent", **options,
        ).images  # fmt: skip
    else:
        expected = diffusers_latents(pipeline, asked, **options)
    torch.testing.assert_close(samplers[name].latents([asked]), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", WRITERS)
def test_an_adapter_draws_what_diffusers_draws_with_it(folders, samplers, tmp_path, name):
    from peft import LoraConfig

    pipeline, model = DiffusionPipeline.from_pretrained(folders[name]), samplers[name].model
    network = getattr(pipeline, model.kind.network)
    torch.manual_seed(0)
    network.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=["to_q", "to_v"]), "default")
    for key, parameter in network.named_parameters():
        if "lora_B" in key:
            parameter.data.normal_(0, 0.3)
    save_adapters(type(pipeline).__name__, {model.kind.network: network}, tmp_path)
    asked = request(name, steps=3)
    found = OfflineSampler(with_lora(model, tmp_path), 2).latents([asked])
    pipeline = DiffusionPipeline.from_pretrained(folders[name])
    pipeline.load_lora_weights(tmp_path)
    torch.testing.assert_close(found, diffusers_latents(pipeline, asked), rtol=0, atol=1e-4)
    assert (found - samplers[name].latents([asked])).abs().max() > 1e-3


@pytest.mark.parametrize("name", WRITERS)
def test_the_limits_read_from_the_files_are_those_of_the_loaded_model(folders, samplers, name):
    batcher = ContinuousBatcher(
        replace(samplers[name].model), batch_size=1, deterministic=True, max_queued=1, encode_image=lambda *_: b"x"
    )
    try:
        limits = batcher.limits()
        assert read_model_limits(folders[name]) == limits
        assert batcher.submit(request(name, steps=1)).future.result(60) == b"x"
    finally:
        batcher.close()
    assert (limits.width_px, limits.side_step_px) == ((256, 4) if name == "flux" else (32, 4))


def test_flux_refuses_a_negative_prompt(samplers):
    with pytest.raises(ConfigError, match="negative_prompt is refused: this model takes the guidance scale"):
        samplers["flux"]([replace(request("flux"), negative_prompt="sad")])


def test_a_pipeline_of_each_kind_has_a_key_and_reads_as_many_tokens_as_diffusers_gives_it(folders):
    keys = {model_key(folder) for folder in folders.values()}
    assert len(keys) == len(WRITERS)
    for folder in folders.values():
        assert pipeline_kind(folder).max_tokens(folder) == 16
        (warning,) = prompt_warnings(["a very long cry for help indeed"], folder)
        assert "of which this model reads the first 16" in warning
