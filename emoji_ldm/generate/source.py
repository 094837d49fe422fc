"""Where a model comes from, and the key of what lies there; light, so that planning needs no torch."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from emoji_ldm.config import Config, key_of
from emoji_ldm.dataset import checkpoints
from emoji_ldm.errors import ModelError
from emoji_ldm.store import Store

CACHE = Path.home() / ".cache" / "emoji-ldm"  # for files of a store that is not local
INDEX = "model_index.json"  # what makes a folder a pipeline
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
STAMPS = ("architectures", "dtype", "torch_dtype", "transformers_version")  # settings that change no pixel
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def model_key(folder: Path | str) -> str:
    """Key of all that decides a seed's pixels, from a pipeline's files alone: weights, settings, vocabulary, noise."""
    folder = local_folder(folder)
    facts: list[object] = []
    for path in sorted(path for part in PARTS for path in (folder / part).iterdir()):
        if path.name in ("config.json", "scheduler_config.json"):
            settings = read_json(path)
            facts.append({name: settings[name] for name in settings if name[0] != "_" and name not in STAMPS})
        elif path.suffix in (".safetensors", ".txt") or path.name in ("tokenizer.json", "vocab.json"):
            with path.open("rb") as stream:
                facts.append([path.parent.name, path.name, hashlib.file_digest(stream, "sha256").hexdigest()])
    return key_of(*facts)


def resolve_checkpoint(config: Config, store: Store, cache: Path, checkpoint: str) -> tuple[Path | str, str]:
    """Find a model: the folder or hub id to load, and the URI that names it (which resolves to the same again).

    Args:
        config: Its `run` gives the newest checkpoint where `checkpoint` is empty.
        store: Where checkpoints lie.
        cache: Local folder for files of a store that is not local.
        checkpoint: "", a local folder (a pipeline or a checkpoint of ours), a path or URI in the store, a hub id.

    Raises:
        ModelError: Nothing of that name is there, or the run has no checkpoint yet.
    """
    if not checkpoint:
        newest = checkpoints.newest(store, config.run, "unet")
        return newest.fetch(cache, "pipeline"), newest.uri
    path = checkpoint.removeprefix(store.uri).strip("/")
    if store.exists(path, checkpoints.MANIFEST):
        found = checkpoints.Checkpoint(store, path, 0)
        return found.fetch(cache, "pipeline"), found.uri
    for folder in (Path(checkpoint).expanduser(), Path(checkpoint).expanduser() / "pipeline"):
        if (folder / INDEX).is_file():
            return folder.absolute(), str(folder.absolute())
    if store.exists(path, INDEX):
        store.download(cache / path, path)
        return cache / path, f"{store.uri}/{path}"
    if HUB_ID.fullmatch(checkpoint) and not Path(checkpoint).exists():
        return checkpoint, checkpoint
    raise ModelError(
        f"checkpoint {checkpoint!r} is neither a pipeline folder (with {INDEX}), nor a checkpoint in {store.uri}, "
        "nor a hub id; leave it empty to take the run's newest"
    )


def local_folder(source: Path | str) -> Path:
    """The folder itself, or the local copy of a hub id; ModelError if it is no pipeline."""
    folder = Path(source) if Path(source).is_dir() else _download(source)
    _check_parts(folder)
    return folder


def _download(source: Path | str) -> Path:
    if isinstance(source, Path) or not HUB_ID.fullmatch(source):
        raise ModelError(f"there is no model folder {source}; name a diffusers pipeline folder or a hub id")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    patterns = [INDEX, *(f"{part}/*.{kind}" for part in PARTS for kind in ("json", "txt", "safetensors"))]
    try:
        return Path(snapshot_download(source, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise ModelError(
            f"there is no folder {source!r}, and the hub does not give a model of that name: {one_line(error)}"
        ) from None


def _check_parts(folder: Path) -> None:
    missing = [name for name in (INDEX, *PARTS) if not (folder / name).exists()]
    if missing:
        raise ModelError(
            f"{folder} is not a StableDiffusionPipeline folder: {', '.join(missing)} missing; "
            "name a folder written by save_pretrained, or a checkpoint's pipeline folder"
        )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file; ModelError if it is not there or none."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {one_line(error)}") from None


def one_line(error: Exception) -> str:
    """The start of an error's text, on one line."""
    return " ".join(str(error).split())[:300]
