"""The starter: the model that this package brings, as a pipeline folder that every stage can open.

The package holds it compressed (`emoji_ldm/starter_model/`): weights of the U-Net as int8 with one scale per output
channel, those of the autoencoder as float16, and the configurations as diffusers writes them. The first use on a
machine unpacks them into a pipeline of float32 below `~/.cache/emoji-ldm`, beside the packaged text encoder. So the
stages know no other kind of model than a pipeline folder. `infra/starter/export.py` writes the packaged files.

This module needs no torch, as planning uses it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emoji_ldm.errors import ModelError
from emoji_ldm.latents.minilm import minilm_folder

STARTER = "starter"  # its name in `train.init`, `latents.vae` and wherever a checkpoint is named
PACKAGED_FOLDER = Path(__file__).parents[1] / "starter_model"
CACHE_FOLDER = Path.home() / ".cache" / "emoji-ldm"
MANIFEST = "manifest.json"  # {"files": {name: sha256}, "max_tokens": padded length of prompts, "training": {...}}
SCALE_SUFFIX = ".scale"  # of the name of an int8 weight: its scales, `(outputs,)` float32
REINSTALL = "install emoji-ldm again"
# {folder of the pipeline: (packaged configuration, its name there, packaged weights)}
PARTS = {
    "unet": ("unet.json", "config.json", "unet.safetensors"),
    "vae": ("vae.json", "config.json", "vae.safetensors"),
    "scheduler": ("scheduler.json", "scheduler_config.json", ""),
}
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"  # diffusers' name
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
    "text_encoder": ["emoji_ldm.latents.zero_padded", "ZeroPaddedBert"],
    "tokenizer": ["transformers", "BertTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["emoji_ldm.latents.premultiplied_adapter", "PremultipliedAutoencoder"],
}

Weights = dict[str, NDArray[Any]]


def is_packaged() -> bool:
    """Whether this installation has the starter's weights."""
    return (PACKAGED_FOLDER / MANIFEST).is_file()


def starter_folder() -> Path:
    """The starter as a pipeline folder; unpacked on the first call of a machine.

    Raises:
        ModelError: The weights are not part of this installation or damaged, the text encoder is missing, or the cache
            cannot be written.
    """
    if not is_packaged():
        raise ModelError(
            "this installation has no weights of the starter model; train a model of your own (emoji-ldm train), or "
            "name another one"
        )
    manifest = (PACKAGED_FOLDER / MANIFEST).read_bytes()
    # The manifest has a hash of each file, so its own hash names the weights: another release gets another folder.
    folder = CACHE_FOLDER / f"{STARTER}-{hashlib.sha256(manifest).hexdigest()[:16]}"
    if not folder.is_dir():
        _unpack_into(folder, _read_manifest(manifest))
    return folder


def unpack_weights(packed: Weights) -> Weights:
    """Float32 weights of packed ones: `weight * scale` per output channel for int8, others converted."""
    weights = {}
    for name, values in packed.items():
        if name.endswith(SCALE_SUFFIX):
            continue
        weights[name] = values.astype(np.float32)
        if values.dtype == np.int8:
            scale = packed[name + SCALE_SUFFIX].astype(np.float32)
            weights[name] *= scale.reshape(-1, *[1] * (values.ndim - 1))
    return weights


def _unpack_into(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the pipeline under another name, then rename it: a folder of the final name is always whole."""
    _check_files(manifest["files"])
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            _write_pipeline(temporary, int(manifest["max_tokens"]))
            temporary.chmod(0o755)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        # Of several processes that unpack at once, one wins, and its folder serves the others.
        if not folder.is_dir():
            raise ModelError(f"cannot unpack the starter model into {folder}: {error.strerror or error}") from None


def _write_pipeline(folder: Path, max_tokens: int) -> None:
    for part, (packaged, name, weights) in PARTS.items():
        (folder / part).mkdir()
        shutil.copyfile(PACKAGED_FOLDER / packaged, folder / part / name)
        if weights:
            _write_weights(PACKAGED_FOLDER / weights, folder / part / WEIGHTS_FILE)
    _write_text_encoder(folder, max_tokens)
    (folder / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n")


def _write_weights(source: Path, target: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file, save_file

    try:
        # diffusers writes the format into the metadata too, and refuses files without it.
        save_file(unpack_weights(load_file(source)), target, metadata={"format": "pt"})
    except (SafetensorError, KeyError) as error:
        raise ModelError(f"{source} is damaged ({error}); {REINSTALL}") from None


def _write_text_encoder(folder: Path, max_tokens: int) -> None:
    """The packaged MiniLM as the text encoder and tokenizer of a pipeline that pads prompts to `max_tokens`."""
    source = minilm_folder()
    for part in ("text_encoder", "tokenizer"):
        (folder / part).mkdir()
    _link_or_copy(source / "model.safetensors", folder / "text_encoder" / "model.safetensors")
    settings = {**_read_settings(source / "config.json"), "use_attention_mask": True}
    (folder / "text_encoder" / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    for name in ("tokenizer.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copyfile(source / name, folder / "tokenizer" / name)
    settings = {**_read_settings(source / "tokenizer_config.json"), "model_max_length": max_tokens}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def _link_or_copy(source: Path, target: Path) -> None:
    # A second name of the same file saves 90 MB, where both folders are on one file system.
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _file_hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_files(hashes: dict[str, str]) -> None:
    for name, expected in hashes.items():
        path = PACKAGED_FOLDER / name
        if not path.is_file():
            raise ModelError(f"{path} is missing; {REINSTALL}")
        found = _file_hash(path)
        if found != expected:
            raise ModelError(f"{path} is damaged (SHA-256 {found[:16]}..., not {expected[:16]}...); {REINSTALL}")


def _read_manifest(text: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(text)
        return {"files": dict(manifest["files"]), "max_tokens": int(manifest["max_tokens"])}
    except (ValueError, KeyError, TypeError):
        raise ModelError(f"{PACKAGED_FOLDER / MANIFEST} is damaged; {REINSTALL}") from None


def _read_settings(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))
