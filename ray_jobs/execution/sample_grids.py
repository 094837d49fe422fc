"""Sample grids: images of a model under training, generated beside the training that holds the device."""

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
# With a larger model, a grid would take a CPU so long that training would wait for it.
MAX_CPU_WEIGHTS = 150_000_000


def preview(
    settings: GenerateConfig, folder: Path, prompts: tuple[str, ...], originals: Sequence[tuple[bytes, str]] = (), *,
    on_gpu: bool = True,
) -> dict[str, bytes]:  # fmt: skip
    """Draw grids with a pipeline, with the settings of `config.generate`, in bf16 on a GPU.

    Args:
        settings: Seeds, steps, guidance scale and batch size.
        folder: The pipeline.
        prompts: Each is drawn `num_images` times.
        originals: `(PNG, caption)` of validation images.
        on_gpu: Whether the training was given a GPU; where it was not, one that is visible belongs to others.

    Returns:
        `{name: PNG}`: `samples` has the prompts' images, `pairs` each original beside an image for its caption.

    Raises:
        JobError: Training leaves too little GPU memory.
    """
    from emoji_ldm.generate.output_folder import contact_sheet

    seeds = range(settings.seed, settings.seed + settings.num_images)
    inputs = [(prompt, seed) for prompt in prompts for seed in seeds]
    # One image per caption, all with the first seed: a pair then differs between two grids only by the training in
    # between.
    inputs += [(caption, settings.seed) for _, caption in originals]
    requests = [GenerationRequest(prompt, settings.negative_prompt, seed, settings.steps, settings.guidance_scale)
             for prompt, seed in inputs]  # fmt: skip
    try:
        images = _draw(folder, requests, min(settings.batch_size, len(requests)), on_gpu=on_gpu)
    finally:
        if on_gpu and torch.cuda.is_available():
            # The caching allocator would keep the blocks of this pipeline, whose sizes training has no use for.
            torch.cuda.empty_cache()
    cards = [(to_png(pixels, request, {}), request.prompt) for pixels, request in zip(images, requests, strict=True)]
    num_samples = len(cards) - len(originals)
    grids = {"samples": contact_sheet(cards[:num_samples])}
    if originals:
        pairs = zip(originals, cards[num_samples:], strict=True)
        grids["pairs"] = contact_sheet([card for pair in pairs for card in pair], columns=4)
    return grids


def _draw(folder: Path, requests: Sequence[GenerationRequest], batch_size: int, *, on_gpu: bool) -> list[RgbaImage]:
    """Draw on the GPU if it has memory left beside training, else on the CPU."""
    from emoji_ldm.generate.offline_sampler import OfflineSampler
    from emoji_ldm.generate.pipeline_loader import load_model

    # Loaded on the CPU first: whether it fits on the GPU is known only by its number of weights.
    model = load_model(folder, "cpu")
    if not (on_gpu and _fits_on_gpu(model)):
        return OfflineSampler(model, batch_size)(requests)
    for part in model.modules():
        part.to(PREVIEW_DEVICE, torch.bfloat16)
    # The codec holds the name of its device beside the module that was moved above.
    model = replace(model, vae=replace(model.vae, device=model.device))
    with torch.autocast(PREVIEW_DEVICE, torch.bfloat16):
        return OfflineSampler(model, batch_size)(requests)


def _fits_on_gpu(model: LatentDiffusionModel) -> bool:
    """Whether a GPU has room for the model in bf16; JobError if it has not and a CPU would take too long."""
    if not torch.cuda.is_available():
        return False
    weights = sum(parameter.numel() for part in model.modules() for parameter in part.parameters())
    # Two bytes per weight and as much again for activations. Memory that training has reserved is not free.
    needed, free = 4 * int(weights), int(torch.cuda.mem_get_info()[0])
    if free < needed and weights > MAX_CPU_WEIGHTS:
        raise JobError(f"a grid takes about {needed / 2**30:.1f} GiB of GPU memory, training leaves {free / 2**30:.1f}")
    return free >= needed
