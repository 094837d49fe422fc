"""Train the diffusion model over Ray, with sample grids on the way."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path

from emoji_ldm.config import Config, GenerateConfig
from emoji_ldm.generate.plan import wanted_draws
from emoji_ldm.train.plan import Place, Task
from ray_jobs import group


def run(config: Config) -> dict[str, object]:
    """Train `config.train` on the store's latents, or on `train.concepts`, resuming by itself; figures for people.

    Raises:
        DatasetError: The store has no captioned images, or some have no latents.
        ModelError: The codec or text encoder is missing, or the run's checkpoint is of another network.
        JobError: See `ray_jobs.group.train`.
    """
    if config.train.concepts:
        from ray_jobs import subject

        return subject.run(config)
    return group.train(config, "train", _load)


def preview(settings: GenerateConfig, folder: Path, prompts: tuple[str, ...]) -> bytes:
    """A contact sheet, as PNG, of `generate.num_images` pictures per prompt from the pipeline in `folder`."""
    from PIL import Image

    from emoji_ldm.generate.model import load_model
    from emoji_ldm.generate.sampler import Sampler
    from emoji_ldm.generate.sheet import contact_sheet

    draws = wanted_draws(settings.model_copy(update={"prompts": prompts, "prompts_file": ""}))
    sampler = Sampler(load_model(folder), min(settings.batch_size, len(draws)))
    cards = []
    for draw, picture in zip(draws, sampler(draws), strict=True):
        png = io.BytesIO()
        Image.fromarray(picture).save(png, "PNG")
        cards.append((png.getvalue(), draw.prompt))
    return contact_sheet(cards)


def _load(place: Place) -> Task:
    from emoji_ldm.train.diffusion import load_task

    return load_task(place, partial(preview, place.config.generate))
