"""Export of a checkpoint as a folder that diffusers opens, with the averaged or the raw weights.

A checkpoint holds the model with averaged weights as users load it, so exporting those is a copy. The second average
and the raw weights exist in the training state only. They are put together from it and written as training does it.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emoji_ldm.config import Config, build
from emoji_ldm.dataset import checkpoints
from emoji_ldm.dataset.checkpoints import Checkpoint
from emoji_ldm.errors import ConfigError, ModelError
from emoji_ldm.latents.pipeline_source import MODEL_INDEX
from emoji_ldm.model.ema import AVERAGE_NAMES
from emoji_ldm.store import Store
from emoji_ldm.train.engines.sharded_state import CorruptStateError, load_slices, whole_slices
from emoji_ldm.train.export_description import FACTS_FILE, ExportRequest, write_description
from emoji_ldm.train.manifest import recorded_config
from emoji_ldm.train.resume import STATE_FOLDER, read_shard_indexes, state_file_reader
from emoji_ldm.train.training_args import CHECKPOINT_KINDS

PARTIAL_PREFIX = ".emoji-ldm-"  # prefix of the folders of unfinished exports
EXPORTED_FOLDERS = {"train": "pipeline", "autoencoder": "vae"}
STORED_WEIGHTS = {"ema": AVERAGE_NAMES[0], "ema2": AVERAGE_NAMES[1], "raw": "weight"}


def export_checkpoint(config: Config, request: ExportRequest, folder: Path, cache: Path) -> dict[str, Any]:
    """Write the folder, replacing an earlier export there; returns checkpoint, step, weights and bytes.

    Configuration, autoencoder and text encoder are the checkpoint's own: no option but `run` and `store` is needed, and
    no data set is read. Only raw weights of which a part was trained need the pipeline of `train.init` unchanged.

    Args:
        config: Gives `store`, and `run` for its newest checkpoint.
        request: Which weights of which checkpoint to export.
        folder: The folder to write; it is created if it does not exist.
        cache: Local folder for files of a store that is not local.

    Raises:
        ConfigError: The folder holds other files, or cannot be written.
        ModelError: There is no such checkpoint, it is damaged, or it has no such average.
    """
    folder = folder.resolve()
    try:
        check_export_folder(folder)
        checkpoint = find_checkpoint(config, Store(config.store, config.branch), request)
        with checkpoint.suggest_alternative():
            return _export_into(checkpoint, request, folder, cache)
    except OSError as error:
        raise ConfigError(f"--export {folder} cannot be written: {error}") from None


def _export_into(checkpoint: Checkpoint, request: ExportRequest, folder: Path, cache: Path) -> dict[str, Any]:
    manifest, is_new = checkpoint.check(), not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    # The partial folder is inside it, since the parent may not be writable, and so on the same disk, where moving is
    # renaming.
    made = folder / f"{PARTIAL_PREFIX}{uuid.uuid4().hex[:8]}"
    try:
        _write(checkpoint, manifest, request, made, cache)
        facts = write_description(checkpoint, manifest, request, made)
        # The earlier export is replaced only once the new one is written in full.
        _replace_contents(folder, made)
    finally:
        shutil.rmtree(made, ignore_errors=True)
        if is_new and not any(folder.iterdir()):
            folder.rmdir()
    return facts


def _replace_contents(folder: Path, made: Path) -> None:
    """Replace all else by what `made` holds; the folder itself stays, as a shell may have it as its directory."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink() and path != made:
            shutil.rmtree(path)
        elif path != made:
            path.unlink()
    # These are renames within one disk, so the folder is incomplete for a short time only.
    for path in made.iterdir():
        path.replace(folder / path.name)


def check_export_folder(folder: Path) -> None:
    """Raise ConfigError unless the folder is new, empty, or holds nothing but an earlier export."""
    if folder.is_file():
        raise ConfigError(f"--export {folder} is a file; give a folder")
    # The facts file lists what an export wrote. Any other file may be the user's, who mistyped a path.
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    there = {name for name in there if not name.startswith(PARTIAL_PREFIX)}
    try:
        ours = set(json.loads((folder / FACTS_FILE).read_text())["files"]) | {FACTS_FILE}
    except (OSError, ValueError, KeyError):
        ours = set()
    if foreign := sorted(there - ours):
        raise ConfigError(f"--export {folder} holds {foreign[0]!r}, which no export wrote; give a new or empty folder")


def find_checkpoint(config: Config, store: Store, request: ExportRequest) -> Checkpoint:
    """The named checkpoint, else the run's newest; ModelError if there is none."""
    kind = CHECKPOINT_KINDS[request.section]
    if not request.checkpoint:
        return checkpoints.newest_checkpoint(store, config.run, kind)
    # Users paste what a command printed: a URI, or a path below the store.
    path = request.checkpoint.rstrip("/").removeprefix(store.uri).strip("/")
    if not store.exists(path, checkpoints.MANIFEST_FILE):
        known = [found.path for found in checkpoints.complete_checkpoints(store, config.run, kind)]
        raise ModelError(f"{request.checkpoint!r} is no complete checkpoint in {store.uri}; "
                         f"run {config.run!r} has {', '.join(known) or 'none'}")  # fmt: skip
    if path.split("/")[2:3] != [kind]:
        raise ModelError(f"{request.checkpoint!r} is no {kind} checkpoint but one of another stage")
    return Checkpoint(store, path, 0)


def read_whole_weights(checkpoint: Checkpoint, manifest: Mapping[str, Any], kind: str) -> dict[str, Tensor]:
    """`{name of a trained parameter: whole fp32 tensor}` of a kind: `weight`, `ema` or `ema2`.

    Raises:
        ModelError: The checkpoint does not hold it, or is damaged.
    """
    names = [name for name in manifest["files"] if Path(name).match(f"{STATE_FOLDER}/rank-*.json")]
    try:
        indexes = read_shard_indexes(checkpoint.store, checkpoint.path, names, manifest.get("sha256", {}))
        held = sorted({stored.kind for index in indexes for stored in index.pieces})
        if kind not in held:
            # Moments and weights share the files, so the answer names what a user can ask for.
            averages = [name for name, stored in STORED_WEIGHTS.items() if stored in held]
            raise ModelError(f"checkpoint {checkpoint.uri} holds no such weights; it has: {', '.join(averages)}")
        # Shapes come from the indexes, so neither the network nor its number of parameters has to be known here.
        tensors = {name: torch.empty(shape) for index in indexes for name, shape in index.shapes.items()}
        slices = whole_slices(list(tensors), list(tensors.values()))
        files = [(index, state_file_reader(checkpoint.store, checkpoint.path, index.file)) for index in indexes]
        load_slices({kind: (slices, list(tensors.values()))}, files)
    except CorruptStateError as error:
        raise checkpoint.damaged(str(error)) from None
    return tensors


def _write(
    checkpoint: Checkpoint, manifest: Mapping[str, Any], request: ExportRequest, folder: Path, cache: Path
) -> None:
    """Copy the exported model of the checkpoint, or build it anew with other weights."""
    # The configuration is validated anew, as an older version of this package may have recorded it.
    config = build(recorded_config(manifest), where=checkpoint.uri)
    if request.section == "train" and config.train.lora and not config.train.lora.fuse:
        _write_adapters(checkpoint, manifest, request, config, folder, cache)
        return
    exported = checkpoint.fetch(cache, EXPORTED_FOLDERS[request.section])
    # The checkpoint's own model has the averaged weights, or the raw ones of a run without averages.
    if request.weights == "ema":
        shutil.copytree(exported, folder)
    else:
        _write_other_weights(checkpoint, manifest, request, config, exported, folder)
    _make_self_contained(folder)


def _write_adapters(
    checkpoint: Checkpoint, manifest: Mapping[str, Any], request: ExportRequest, config: Config, folder: Path,
    cache: Path,
) -> None:  # fmt: skip
    """Copy the adapters of a checkpoint that holds nothing else, or write them anew with other weights."""
    from emoji_ldm.train.tasks.pipeline_export import export_adapters, load_frozen

    if request.weights == "ema":
        shutil.copytree(checkpoint.fetch(cache, "lora"), folder)
        return
    weights = read_whole_weights(checkpoint, manifest, STORED_WEIGHTS[request.weights])
    # The frozen models give the shapes of what the adapters are put into; the checkpoint has none of its own.
    frozen = load_frozen(config, checkpoint.store, cache)
    _check_base(config, frozen, manifest.get("base_key", ""))
    export_adapters(config.train, frozen, weights, folder)


def _write_other_weights(
    checkpoint: Checkpoint, manifest: Mapping[str, Any], request: ExportRequest, config: Config, exported: Path,
    folder: Path,
) -> None:  # fmt: skip
    weights = read_whole_weights(checkpoint, manifest, STORED_WEIGHTS[request.weights])
    if request.section == "train":
        _write_pipeline(config, weights, exported, folder, manifest.get("base_key", ""))
    else:
        _write_autoencoder(config, weights, exported, folder)


def _make_self_contained(folder: Path) -> None:
    """Let diffusers open the folder where this package is not installed."""
    from emoji_ldm.train.tasks.pipeline_export import copy_custom_code

    if (folder / MODEL_INDEX).is_file():
        copy_custom_code(folder)
        return
    settings = json.loads((folder / "config.json").read_text())
    # Outside a pipeline nothing asks for `latent_dist`, so the stock class will do. A single model could not carry code
    # anyway.
    if settings["_class_name"] == "QuantizedAutoencoder":
        settings["_class_name"] = "VQModel"
        (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")


def _write_pipeline(config: Config, weights: Mapping[str, Tensor], exported: Path, folder: Path, base_key: str) -> None:
    from emoji_ldm.latents.text_encoder import load_text_encoder
    from emoji_ldm.latents.vae import load_vae
    from emoji_ldm.train.tasks.pipeline_export import FrozenModels, export_pipeline

    latents = config.latents
    # The frozen parts are read from the checkpoint's own pipeline, so the export does not depend on what the hub or the
    # disk holds today.
    vae = load_vae(exported / "vae", size_px=latents.size_px, background=latents.background, device="cpu")
    text = load_text_encoder(str(exported), max_tokens=latents.max_tokens, device="cpu")
    frozen = FrozenModels(vae, text)
    _check_base(config, frozen, base_key)
    export_pipeline(config, frozen, weights, folder)


def _check_base(config: Config, frozen: Any, base_key: str) -> None:
    """Raise ModelError if the trained part belongs to other frozen weights than those of today's `train.init`."""
    from emoji_ldm.train.tasks.pipeline_export import base_weights_key, build_initial_denoiser

    if not base_key:
        return
    # The checkpoint holds the trained part alone. On another base it would load without an error, and draw wrong
    # images.
    found = base_weights_key(build_initial_denoiser(config, frozen, frozen.vae.latent_shape, frozen.text.width).network)
    if found != base_key:
        raise ModelError(
            f"train.init={config.train.init} is not what this was trained on (its U-Net has key {found}, then "
            f"{base_key}): bring that pipeline back, or export the averaged weights, which hold it (--weights ema)"
        )


def _write_autoencoder(config: Config, weights: Mapping[str, Tensor], exported: Path, folder: Path) -> None:
    """Write raw weights with the scaling factor that was measured for the averaged ones."""
    from emoji_ldm.model.autoencoder import build_autoencoder

    vae = build_autoencoder(config.autoencoder)
    vae.load_state_dict({name.removeprefix("vae."): tensor for name, tensor in weights.items()})
    # Measuring the factor anew would need the data set, and the two sets of weights differ too little to matter.
    scale = json.loads((exported / "config.json").read_text())["scaling_factor"]
    vae.register_to_config(scaling_factor=scale)
    vae.save_pretrained(folder)
