"""Sample grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from emoji_ldm.config import GenerateConfig
from emoji_ldm.errors import JobError
from emoji_ldm.generate.encode_decode import RgbaImage
from emoji_ldm.generate.pipeline_loader import LatentDiffusionModel
from emoji_ldm.generate.png_metadata import to_png
from emoji_ldm.generate.request import GenerationRequest

PREVIEW_DEVICE = "cuda"


MAX_CPU_WEIGHTS = 150_000_000  # weights that a CPU draws with in little time


def preview(
    settings: GenerateConfig, folder: Path, prompts: tuple[str, ...], originals: Sequence[tuple[bytes, str]] = ()
) -> dict[str, bytes]:
    """Grids, as PNG, of what the pipeline in `folder` draws as `config.generate` says, in bf16 on a GPU.

    Returns:
        `samples`: `num_images` pictures per prompt; `pairs`: originals, each beside a picture for its caption.

    Raises:
        JobError: Training leaves no room for it.
    """
    from emoji_ldm.generate.output_folder import contact_sheet
    from emoji_ldm.generate.request import GenerationRequest

    seeds = range(settings.seed, settings.seed + settings.num_images)
    wanted = [(prompt, seed) for prompt in prompts for seed in seeds]
    wanted += [(caption, settings.seed) for _, caption in originals]
    draws = [GenerationRequest(prompt, settings.negative_prompt, seed, settings.steps, settings.guidance_scale)
             for prompt, seed in wanted]  # fmt: skip
    try:
        pictures = _draw(folder, draws, min(settings.batch_size, len(draws)))
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # training's own, from here on
    cards = [(to_png(pixels, draw, {}), draw.prompt) for pixels, draw in zip(pictures, draws, strict=True)]
    num_samples = len(cards) - len(originals)
    grids = {"samples": contact_sheet(cards[:num_samples])}
    if originals:
        pairs = zip(originals, cards[num_samples:], strict=True)
        grids["pairs"] = contact_sheet([card for pair in pairs for card in pair], columns=4)
    return grids


def _draw(folder: Path, draws: Sequence[GenerationRequest], batch_size: int) -> list[RgbaImage]:
    """Pictures beside a training: it owns the device, so this takes no more of it than is free."""
    from emoji_ldm.generate.offline_sampler import OfflineSampler
    from emoji_ldm.generate.pipeline_loader import load_model

    model = load_model(folder, "cpu")
    if not _fits(model):
        return OfflineSampler(model, batch_size)(draws)
    for part in (model.unet, model.codec.vae, model.text.model):
        part.to(PREVIEW_DEVICE, torch.bfloat16)
    model = replace(model, codec=replace(model.codec, device=model.device))
    with torch.autocast(PREVIEW_DEVICE, torch.bfloat16):
        return OfflineSampler(model, batch_size)(draws)


def _fits(model: LatentDiffusionModel) -> bool:
    """Whether a GPU has room left for the model in bf16; JobError if it has not and a CPU would take too long."""
    if not torch.cuda.is_available():
        return False
    parts = (model.unet, model.codec.vae, model.text.model)
    weights = sum(parameter.numel() for part in parts for parameter in part.parameters())
    # Two bytes each, and as much again for what is computed. What training has set aside is not free.
    needed, free = 4 * int(weights), int(torch.cuda.mem_get_info()[0])
    if free < needed and weights > MAX_CPU_WEIGHTS:
        raise JobError(f"a grid takes about {needed / 2**30:.1f} GiB of GPU memory, training leaves {free / 2**30:.1f}")
    return free >= needed
