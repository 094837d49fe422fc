"""Folders of diffusers pipelines, local or downloaded from the hub. It must not import torch, as planning uses it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emoji_ldm.errors import ModelError
from emoji_ldm.latents.starter_model import STARTER, starter_folder

MODEL_INDEX = "model_index.json"  # what makes a folder a pipeline
PIPELINE_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
# {diffusers class of a pipeline with several text encoders: their folders}
TEXT_PARTS = {
    "StableDiffusionXLPipeline": ("text_encoder", "text_encoder_2"),
    "StableDiffusion3Pipeline": ("text_encoder", "text_encoder_2", "text_encoder_3"),
    "FluxPipeline": ("text_encoder", "text_encoder_2"),
}
# {diffusers class: folder of its network}, where that is not `unet`
NETWORK_PARTS = {"StableDiffusion3Pipeline": "transformer", "FluxPipeline": "transformer"}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def local_folder(source: Path | str, parts: tuple[str, ...] | None = None) -> Path:
    """The folder itself, or a local copy of these parts of a hub id; ModelError if it is no such pipeline.

    Without `parts` these are all that sampling needs, see `pipeline_parts`.
    """
    parts = pipeline_parts(source) if parts is None else parts
    folder = Path(source) if Path(source).is_dir() else _download(source, parts)
    _check_parts(folder, parts)
    return folder


def resolve_checkpoint_pipeline(source: str) -> str:
    """The pipeline folder inside a checkpoint's folder, or of the packaged `starter`; any other source unchanged."""
    # The name wins over a folder of that name, as presets do, so that a command means the same everywhere.
    if source == STARTER:
        return str(starter_folder())
    # Users name checkpoints, which hold the training state as well; the pipeline is a folder inside.
    nested = Path(source, "pipeline")
    return str(nested) if nested.is_dir() else source


def pipeline_class(source: Path | str) -> str:
    """The diffusers class of a pipeline's folder, checkpoint or hub id, such as `StableDiffusionPipeline`.

    Raises:
        ModelError: It is no pipeline.
    """
    return str(read_json(local_folder(resolve_checkpoint_pipeline(str(source)), ()) / MODEL_INDEX).get("_class_name"))


def pipeline_parts(source: Path | str) -> tuple[str, ...]:
    """The folders of a pipeline that sampling needs; of one without an index those of Stable Diffusion."""
    if Path(source).is_dir() and not Path(source, MODEL_INDEX).is_file():
        return PIPELINE_PARTS
    kind = pipeline_class(source)
    if kind not in TEXT_PARTS:
        return PIPELINE_PARTS
    encoders = TEXT_PARTS[kind]
    tokenizers = (name.replace("text_encoder", "tokenizer") for name in encoders)
    return (NETWORK_PARTS.get(kind, "unet"), "vae", *encoders, *tokenizers, "scheduler")


def cells_per_step(network: Mapping[str, Any], packing: int = 1) -> int:
    """What the sides of latents are multiples of, given a network's configuration.

    `packing` is the side of the square of latent cells that enters the network as one cell with more channels.
    """
    # A U-Net halves the latent once for each resolution after the first. A transformer's tokens are squares.
    if "block_out_channels" in network:
        return int(2 ** (len(network["block_out_channels"]) - 1))
    return int(network["patch_size"]) * packing


def is_hub_pipeline(source: str) -> bool:
    """Whether a source is the hub id of a pipeline rather than of a single model; false if the hub gives no answer."""
    if Path(source).exists() or not HUB_ID.fullmatch(source):
        return False
    # The index is the smallest file that tells a pipeline from a single model. Without an answer the source counts as a
    # model, and the loader that follows reports what is wrong.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled

    try:
        hf_hub_download(source, MODEL_INDEX)
    except (EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled, OSError):
        return False
    return True


def _download(source: Path | str, parts: tuple[str, ...]) -> Path:
    if isinstance(source, Path) or not HUB_ID.fullmatch(source):
        raise ModelError(f"there is no model folder {source}; name a diffusers pipeline folder or a hub id")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    # Weights come as safetensors only: formats that pickle (.bin, .ckpt) can run code while they are loaded.
    patterns = [MODEL_INDEX, *(f"{part}/*.{kind}" for part in parts for kind in ("json", "txt", "safetensors"))]
    # Many repositories hold the weights again in half precision and without averaging. The loaders never open these
    # copies, which would triple the download.
    unused = [f"{part}/*.{kind}.safetensors" for part in parts for kind in ("fp16", "non_ema")]
    try:
        return Path(snapshot_download(source, allow_patterns=patterns, ignore_patterns=unused))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise ModelError(
            f"there is no folder {source!r}, and no model of that name could be downloaded: {short_error_text(error)}"
        ) from None


def _check_parts(folder: Path, parts: tuple[str, ...]) -> None:
    # The parts are checked before anything is loaded: diffusers would fail later, at the first missing file, with a
    # text that names its own internals.
    missing = [name for name in (MODEL_INDEX, *parts) if not (folder / name).exists()]
    if missing:
        kind = "StableDiffusionPipeline" if "unet" in parts else "pipeline"
        raise ModelError(
            f"{folder} is not a {kind} folder: {', '.join(missing)} missing; "
            "name a folder written by save_pretrained, or a checkpoint's pipeline folder"
        )


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; ModelError if it is missing or not one."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {short_error_text(error)}") from None


def short_error_text(error: Exception) -> str:
    """The start of an error's text, on one line."""
    return " ".join(str(error).split())[:300]
