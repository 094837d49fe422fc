"""Generating a handful of images in this process: no Ray, no table, only the files that were asked for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from emoji_ldm.config import Config
from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.checkpoint_resolver import (
    CACHE_FOLDER,
    adapter_folder,
    resolve_checkpoint,
    training_data_versions,
)
from emoji_ldm.generate.output_folder import write_output_folder
from emoji_ldm.generate.png_metadata import describe_mode, provenance, to_png
from emoji_ldm.generate.prompt_text import prompt_warnings
from emoji_ldm.generate.request import GenerationRequest, generated_id, plan_requests
from emoji_ldm.latents.pipeline_source import local_folder
from emoji_ldm.progress import print_status, track
from emoji_ldm.store import Store


def generate_locally(config: Config, output: str) -> dict[str, object]:
    """Draw the requests of `config.generate` and write them.

    Args:
        config: As for the job `generate`; its fields for workers and shards have no effect here.
        output: A file name that ends in .png, for one image; else a folder for the images, a contact sheet and a list.

    Returns:
        Count, time, model and output for the summary.

    Raises:
        ConfigError: There is no prompt, the output cannot be written, or the model does not support the requests.
        ModelError: There is no such model.
    """
    began, settings = time.monotonic(), config.generate
    requests, target = plan_requests(settings), Path(output).expanduser()
    _check_target(target, len(requests))
    store = Store(config.store, config.branch)
    source, uri = resolve_checkpoint(config, store, CACHE_FOLDER, settings.checkpoint or "")
    for line in prompt_warnings((request.prompt for request in requests), local_folder(source)):
        print_status(line)
    model, images = _draw(config, source, requests)
    mode = describe_mode(settings.batch_size, deterministic=settings.deterministic)
    versions = training_data_versions(store, uri)
    files = [
        to_png(pixels, request, provenance(model, request, mode, versions))
        for request, pixels in zip(requests, images, strict=True)
    ]
    if target.suffix.lower() == ".png":
        _write_file(files[0], target)
    else:
        rows = [
            {**asdict(request), "image": {"bytes": png}, "model_key": model.key, "generated_id": name}
            for request, png in zip(requests, files, strict=True)
            for name in [generated_id(model.key, request, settings.batch_size, deterministic=settings.deterministic)]
        ]
        write_output_folder(target, rows)
    return {
        "images": len(files),
        "time": f"{time.monotonic() - began:.1f} s",
        "model": f"{uri} ({model.key})",
        "output": str(target),
    }


def _draw(config: Config, source: Path | str, requests: Sequence[GenerationRequest]) -> tuple[Any, list[Any]]:
    """The model, and the pixels of each request."""
    # Only now: a wrong option is reported before seconds are spent on loading torch.
    from emoji_ldm.generate.offline_sampler import OfflineSampler
    from emoji_ldm.generate.pipeline_loader import load_model, sampling_device, with_lora

    settings = config.generate
    model = load_model(source, sampling_device(settings.gpus_per_worker, deterministic=settings.deterministic))
    if settings.lora:
        store = Store(config.store)
        model = with_lora(model, adapter_folder(store, CACHE_FOLDER, "generate.lora", settings.lora))
    # The batch size is kept even for one image: in deterministic mode it decides the last bits, and an image drawn here
    # equals that of the job.
    sampler = OfflineSampler(model, settings.batch_size, deterministic=settings.deterministic)
    with track("generate", len(requests) * settings.steps, "steps") as progress:
        return model, sampler(requests, lambda done, total: progress.advance(done - progress.done))


def _check_target(target: Path, num_images: int) -> None:
    is_file = target.suffix.lower() == ".png"
    if is_file and num_images > 1:
        raise ConfigError(f"--output {target} is one file, but {num_images} images are asked for; name a folder")
    if not is_file and target.is_file():
        raise ConfigError(f"--output {target} is a file; name a folder, or a file that ends in .png")
    if is_file and target.is_dir():
        raise ConfigError(f"--output {target} is a folder; name a file")


def _write_file(png: bytes, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; choose another file with --output") from None
