"""Configuration of offline generation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from emoji_ldm.config.section import Positive, Section


class GenerateConfig(Section):
    """What to draw and with which model."""

    prompts: tuple[str, ...] = ()
    """Prompts, each drawn `num_images` times."""
    prompts_file: str = ""
    """Text file with a prompt per line, added to `prompts`."""
    checkpoint: str = ""
    """Folder of a diffusers pipeline, or a checkpoint in the store; empty takes the run's newest."""
    num_images: Positive = 1
    """Images per prompt, with seeds `seed`, `seed` + 1, ..."""
    seed: Annotated[int, Field(ge=0)] = 0
    """First seed."""
    steps: Positive = 30
    """Denoising steps."""
    guidance_scale: Annotated[float, Field(ge=1)] = 3.0
    """Classifier-free guidance; 1 turns it off."""
    negative_prompt: str = ""
    """What to steer away from."""
    batch_size: Positive = 8
    """Rows of the one padded batch shape; part of what makes a seed give the same pixels."""
    num_workers: Positive = 1
    """Sampler actors."""
    num_gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs per sampler actor."""
    rows_per_shard: Positive = 32
    """Images per commit."""
    output: str = ""
    """Folder for PNG files and the contact sheet; empty means runs/<run>/generated."""
