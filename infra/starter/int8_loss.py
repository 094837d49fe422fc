"""What packing costs: pictures of the packaged starter against those of the float32 weights that it was made of.

`python -m infra.starter.int8_loss starter --package emoji_ldm/starter_model`: same prompts, seeds, steps and engine.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from emoji_ldm.generate.offline_sampler import OfflineSampler
from emoji_ldm.generate.pipeline_loader import LatentDiffusionModel, load_model
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.latents import starter_model
from infra.starter.export import load_trained
from infra.starter.prompts import PROMPTS


def premultiplied(images: list[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Pictures `(n, H, W, 4)` with colour times alpha, so that colour that nobody sees counts for nothing."""
    pixels = np.stack(images).astype(np.float64)
    pixels[..., :3] *= pixels[..., 3:] / 255
    return pixels


def main() -> None:
    """Print the PSNR of each picture and their median, and of the autoencoder alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--package", type=Path, default=starter_model.PACKAGED_FOLDER)
    parser.add_argument("--steps", type=int, default=25)
    options = parser.parse_args()
    torch.set_num_threads(1)
    starter_model.PACKAGED_FOLDER = options.package
    unet, vae, training = load_trained(options.run)
    if json.loads((options.package / starter_model.MANIFEST).read_text())["training"]["step"] != training["step"]:
        raise SystemExit(f"{options.package} is of another step than run {options.run}; export it again")
    requests = [GenerationRequest(prompt, seed=seed, steps=options.steps) for seed, prompt in enumerate(PROMPTS)]
    with TemporaryDirectory() as cache:
        starter_model.CACHE_FOLDER = Path(cache)
        packed = load_model(starter_model.starter_folder(), "cpu")
    exact = replace(packed, unet=unet.requires_grad_(False), vae=replace(packed.vae, vae=vae.requires_grad_(False)))
    pictures = {name: _draw(model, requests) for name, model in (("packed", packed), ("exact", exact))}
    decibels = [_psnr(one, other) for one, other in zip(*pictures.values(), strict=True)]
    for request, value in zip(requests, decibels, strict=True):
        print(f"{value:5.1f} dB  {request.prompt}")
    print(f"median {np.median(decibels):.1f} dB, least {min(decibels):.1f} dB, {len(decibels)} pictures")
    latents = OfflineSampler(exact, 8).latents(requests)
    decoded = [premultiplied(list(model.vae.decode(latents))) for model in (packed, exact)]
    print(f"autoencoder in float16 alone: {_psnr(*decoded):.1f} dB")


def _draw(model: LatentDiffusionModel, requests: list[GenerationRequest]) -> NDArray[np.float64]:
    return premultiplied(OfflineSampler(model, 8)(requests))


def _psnr(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(10 * np.log10(255**2 / max(float(np.square(one - other).mean()), 1e-9)))


if __name__ == "__main__":
    main()
