"""Train the diffusion model over Ray, with sample grids on the way."""

from __future__ import annotations

import io
from pathlib import Path

from emoji_ldm.config import Config
from emoji_ldm.train.plan import Place, Task
from ray_jobs import group

PREVIEW_STEPS = 20


def run(config: Config) -> dict[str, object]:
    """Train `config.train` on the store's latents, resuming by itself; returns figures for people.

    Raises:
        DatasetError: The store has no captioned images, or some have no latents.
        ModelError: The codec or text encoder is missing, or the run's checkpoint is of another network.
        JobError: See `ray_jobs.group.train`.
    """
    return group.train(config, "train", _load)


def preview(folder: Path, prompts: tuple[str, ...]) -> bytes:
    """A contact sheet, as PNG, of one picture per prompt from the pipeline in `folder`; seeds are fixed."""
    from PIL import Image

    from emoji_ldm.generate.model import load_model
    from emoji_ldm.generate.sampler import Draw, Sampler
    from emoji_ldm.generate.sheet import contact_sheet

    sampler = Sampler(load_model(folder), batch_size=len(prompts))
    draws = [Draw(prompt, seed=seed, steps=PREVIEW_STEPS) for seed, prompt in enumerate(prompts)]
    cards = []
    for draw, picture in zip(draws, sampler(draws), strict=True):
        png = io.BytesIO()
        Image.fromarray(picture).save(png, "PNG")
        cards.append((png.getvalue(), draw.prompt))
    return contact_sheet(cards)


def _load(place: Place) -> Task:
    from emoji_ldm.train.diffusion import load_task

    return load_task(place, preview)
