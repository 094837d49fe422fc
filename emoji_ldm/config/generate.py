"""Section `generate`: prompts, sampling and batches of offline generation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from emoji_ldm.config.base import Positive, Section


class EditOptions(Section):
    """An image to start from instead of noise."""

    image: str
    """Image file to start from, fitted into the image size."""
    mask: str | None = None
    """Image file of the size of `image`: only its transparent (or, without an alpha channel, white) area is redrawn."""
    strength: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of `generate.steps` that change the image; 1 keeps nothing of it. null means 0.8, or 1 with `mask`."""


class GenerateConfig(Section):
    """What to generate, and with which model."""

    prompts: tuple[str, ...] = ()
    """Prompts; each is generated `num_images` times."""
    prompts_file: str | None = None
    """Text file with a prompt per line, added to `prompts`."""
    checkpoint: str | None = None
    """Folder of a diffusers pipeline, or a checkpoint in the store; null takes the run's newest,
    or `starter`, the packaged model, if there is none."""
    num_images: Positive = 1
    """Images per prompt, with seeds `seed`, `seed` + 1, ..."""
    seed: Annotated[int, Field(ge=0)] = 0
    """First seed."""
    steps: Positive = 30
    """Denoising steps."""
    guidance_scale: Annotated[float, Field(ge=1)] = 3.0
    """Scale of classifier-free guidance; 1 turns it off."""
    negative_prompt: str = ""
    """Prompt to steer away from."""
    scheduler: Literal["ddim", "ddpm", "euler", "euler_ancestral", "dpmpp_2m", "lcm", "flow_euler"] | None = None
    """Sampler; null takes the model's default: ddim, or flow_euler for a rectified-flow model."""
    width_px: Positive | None = None
    """Width of the images; null takes the model's."""
    height_px: Positive | None = None
    """Height of the images; null takes the model's."""
    edit: EditOptions | None = None
    """Image to start from and what is redrawn of it; null starts from noise."""
    lora: str | None = None
    """LoRA adapters: a folder with pytorch_lora_weights.safetensors, or the path or URI of one in the store."""
    # Kernels choose their algorithm by the shape of the batch, so equal pixels need equal shapes.
    deterministic: bool = True
    """Same seed, same pixels: all forward passes have one shape. Else shapes follow the load: faster, bits vary."""
    batch_size: Positive = 8
    """Rows of the padded batch; equal pixels for equal seeds require an equal batch size."""
    num_workers: Positive = 1
    """Sampler actors."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    """GPUs per sampler actor."""
    rows_per_shard: Positive = 32
    """Images per commit."""
    output: str | None = None
    """Folder for PNG files and the contact sheet; null means runs/<run>/generated."""
