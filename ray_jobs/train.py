"""Train the diffusion model over Ray, with sample grids on the way."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from emoji_ldm.config import Config, GenerateConfig
from emoji_ldm.generate.post import to_png
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


def preview(
    settings: GenerateConfig, folder: Path, prompts: tuple[str, ...], originals: Sequence[tuple[bytes, str]] = ()
) -> dict[str, bytes]:
    """Grids, as PNG, of what the pipeline in `folder` draws as `config.generate` says.

    Returns:
        `samples`: `num_images` pictures per prompt; `pairs`: originals, each beside a picture for its caption.
    """
    from emoji_ldm.generate.model import load_model
    from emoji_ldm.generate.sampler import Draw, Sampler
    from emoji_ldm.generate.sheet import contact_sheet

    seeds = range(settings.seed, settings.seed + settings.num_images)
    wanted = [(prompt, seed) for prompt in prompts for seed in seeds]
    wanted += [(caption, settings.seed) for _, caption in originals]
    draws = [Draw(prompt, settings.negative_prompt, seed, settings.steps, settings.guidance_scale)
             for prompt, seed in wanted]  # fmt: skip
    pictures = Sampler(load_model(folder), min(settings.batch_size, len(draws)))(draws)
    cards = [(to_png(pixels, draw, {}), draw.prompt) for pixels, draw in zip(pictures, draws, strict=True)]
    num_samples = len(cards) - len(originals)
    grids = {"samples": contact_sheet(cards[:num_samples])}
    if originals:
        pairs = zip(originals, cards[num_samples:], strict=True)
        grids["pairs"] = contact_sheet([card for pair in pairs for card in pair], columns=4)
    return grids


def _load(place: Place) -> Task:
    from emoji_ldm.train.diffusion import load_task

    return load_task(place, partial(preview, place.config.generate))
