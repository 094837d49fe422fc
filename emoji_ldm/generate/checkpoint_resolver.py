"""What is known of a model from its files alone: where it is, its key and its limits.

This module needs no torch: drivers plan a run, and the service knows which requests it can accept, before any worker
loads weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from emoji_ldm.config import Config, key_of
from emoji_ldm.dataset import checkpoint_aliases, checkpoints
from emoji_ldm.errors import ModelError, UntrainedError
from emoji_ldm.generate.pipeline_kinds import pipeline_kind
from emoji_ldm.generate.request import compatible_schedulers
from emoji_ldm.latents import starter_model
from emoji_ldm.latents.pipeline_source import HUB_ID, MODEL_INDEX, local_folder, pipeline_parts, read_json
from emoji_ldm.latents.starter_model import STARTER, is_packaged, starter_folder
from emoji_ldm.progress import print_status
from emoji_ldm.store import Store
from emoji_ldm.train.manifest import recorded_config

CACHE_FOLDER = starter_model.CACHE_FOLDER  # also of local copies of files of a remote store
ALIAS_PREFIX = "alias:"  # before the name of a checkpoint that `emoji-ldm train --alias` gave
OLD_ALIAS_PREFIX = "tag:"  # what configurations of earlier releases write instead
LORA_FILE = "pytorch_lora_weights.safetensors"  # the name that diffusers' save_lora_weights and our training use
IGNORED_SETTINGS = ("architectures", "dtype", "torch_dtype", "transformers_version")  # settings that change no pixel
DEFAULT_TIMESTEPS = 1000  # of diffusers' schedulers whose configuration has none
WEIGHT_FILES = tuple(f"{stem}.safetensors{index}" for stem in ("diffusion_pytorch_model", "model")
                     for index in ("", ".index.json"))  # fmt: skip
MAX_SIDE_FACTOR = 2  # the largest side, in multiples of the side that the model was trained at


def resolve_checkpoint(config: Config, store: Store, cache: Path, checkpoint: str) -> tuple[Path | str, str]:
    """Find a model.

    Args:
        config: Its `run` names the run whose newest checkpoint an empty `checkpoint` means.
        store: Holds the checkpoints.
        cache: Local folder for files of a remote store.
        checkpoint: "", alias:NAME, starter, a local folder (a pipeline or one of our checkpoints), a path or URI in
            the store, or a hub id. "" means the starter, where it is packaged, until the run has a checkpoint.

    Returns:
        The folder or hub id to load, and a URI that keeps naming this very model.

    Raises:
        ModelError: Nothing of that name exists, or the run has no checkpoint yet.
    """
    if not checkpoint and is_packaged() and _is_untrained(config, store):
        print_status(f"run {config.run!r} has no checkpoint yet: the packaged starter model draws")
        checkpoint = STARTER
    if checkpoint == STARTER:
        return starter_folder(), STARTER
    if is_moving_reference(checkpoint):
        # The URI that is returned names the checkpoint itself: an alias may move while a run still refers to its model.
        found = resolve_reference(config, store, checkpoint)
        return _pipeline_of(found, cache), found.uri
    # A checkpoint of ours has a manifest, which is written last: its existence means that the upload is complete.
    path = checkpoint.removeprefix(store.uri).strip("/")
    if store.exists(path, checkpoints.MANIFEST_FILE):
        found = checkpoints.Checkpoint(store, path, 0)
        return _pipeline_of(found, cache), found.uri
    # The folder of a checkpoint that was copied out of a store has its pipeline one level below.
    for folder in (Path(checkpoint).expanduser(), Path(checkpoint).expanduser() / "pipeline"):
        if (folder / MODEL_INDEX).is_file():
            return folder.absolute(), str(folder.absolute())
    if store.exists(path, MODEL_INDEX):
        store.download(cache / path, path)
        return cache / path, f"{store.uri}/{path}"
    # A hub id looks like a relative path; a local path that exists is meant as one.
    if HUB_ID.fullmatch(checkpoint) and not Path(checkpoint).exists():
        return checkpoint, checkpoint
    raise ModelError(
        f"checkpoint {checkpoint!r} is neither a pipeline folder (with {MODEL_INDEX}), nor a checkpoint in "
        f"{store.uri}, nor a hub id; leave it empty to use the run's newest one"
    )


def _pipeline_of(found: checkpoints.Checkpoint, cache: Path) -> Path:
    """The pipeline's folder of a checkpoint; ModelError if it holds adapters alone."""
    manifest = found.manifest()
    if not any(name.startswith("pipeline/") for name in manifest["files"]):
        base = recorded_config(manifest).get("train", {}).get("init") or "their base model"
        raise ModelError(
            f"checkpoint {found.uri} holds adapters alone; draw with generate.checkpoint={base} "
            f"generate.lora={found.uri}"
        )
    return found.fetch(cache, "pipeline")


def _is_untrained(config: Config, store: Store) -> bool:
    try:
        checkpoints.newest_checkpoint(store, config.run, "unet")
    except UntrainedError:
        return True
    return False


def is_moving_reference(checkpoint: str) -> bool:
    """Whether the same reference may name another checkpoint later: the run's newest one, or an alias."""
    return not checkpoint or checkpoint.startswith((ALIAS_PREFIX, OLD_ALIAS_PREFIX))


def resolve_reference(config: Config, store: Store, checkpoint: str) -> checkpoints.Checkpoint:
    """The checkpoint that a moving reference names now; ModelError if there is none."""
    if not checkpoint:
        return checkpoints.newest_checkpoint(store, config.run, "unet")
    alias = checkpoint.removeprefix(ALIAS_PREFIX).removeprefix(OLD_ALIAS_PREFIX)
    return checkpoints.Checkpoint(store, checkpoint_aliases.resolve_alias(store, alias), 0)


def adapter_folder(store: Store, cache: Path, option: str, value: str) -> Path:
    """A local folder with LoRA adapters.

    Args:
        store: Holds the checkpoints.
        cache: Local folder for files of a remote store.
        option: The option that names the adapter, for the error message.
        value: A local folder, or a path or URI in the store. The folder of a checkpoint that learned adapters works.

    Raises:
        ModelError: There are no adapters.
    """
    # Besides the adapter's own folder, those of a checkpoint and of its `pipeline` are accepted, as users copy either.
    for local in (folder := Path(value).expanduser(), folder / "lora", folder / "pipeline" / "lora"):
        if (local / LORA_FILE).is_file():
            return local.absolute()
    path = value.removeprefix(store.uri).strip("/")
    for remote in (path, f"{path}/lora", f"{path}/pipeline/lora"):
        if store.exists(remote, LORA_FILE):
            store.download(cache / remote, remote)
            return cache / remote
    raise ModelError(f"{option}={value}: no {LORA_FILE} there, neither in a local folder nor in {store.uri}")


def training_data_versions(store: Store, uri: str) -> dict[str, int]:
    """Versions of the tables that a model was trained on, {table: version}; empty if its checkpoint does not say."""
    path = uri.removeprefix(store.uri).strip("/")
    if not uri.startswith(store.uri) or not store.exists(path, checkpoints.MANIFEST_FILE):
        return {}
    return dict(checkpoints.Checkpoint(store, path, 0).manifest().get("versions", {}))


def model_key(folder: Path | str) -> str:
    """Key of everything in a pipeline that decides a seed's pixels: weights, settings, vocabulary, noise schedule.

    Copies of a pipeline have the same key, whatever the folder is called and whoever saved it.

    Raises:
        ModelError: A part has no weights in safetensors.
    """
    folder = local_folder(folder)
    require_safetensors(folder)
    facts: list[object] = []
    # Sorted, since the order of a directory listing differs between file systems and the key must not.
    for path in sorted(path for part in pipeline_parts(folder) for path in (folder / part).iterdir()):
        if path.name in ("config.json", "scheduler_config.json"):
            settings = read_json(path)
            # Names with an underscore are diffusers' own notes, such as the version that saved the file.
            facts.append({name: settings[name] for name in settings if name[0] != "_" and name not in IGNORED_SETTINGS})
        # Weights and vocabularies are hashed by content, under the names that our training and diffusers save them
        # with. Other files, such as the README, are taken to change no pixel.
        elif path.suffix in (".safetensors", ".txt") or path.name in ("tokenizer.json", "vocab.json"):
            with path.open("rb") as stream:
                facts.append([path.parent.name, path.name, hashlib.file_digest(stream, "sha256").hexdigest()])
    return key_of(*facts)


def require_safetensors(folder: Path) -> None:
    """Raise ModelError if a part of a pipeline has its weights in another format only.

    The others (.bin, .ckpt) are pickles, which can run code while they are loaded; and no key covers them.
    """
    for part in pipeline_kind(folder).weight_parts:
        if not any((folder / part / name).is_file() for name in WEIGHT_FILES):
            found = ", ".join(sorted(path.name for path in (folder / part).glob("*.bin"))) or "none"
            raise ModelError(f"{folder / part} has no weights in safetensors (others: {found}), and other formats can "
                             "run code while they are loaded; save the pipeline again with "
                             "save_pretrained(..., safe_serialization=True)")  # fmt: skip


def lora_key(model_key: str, folder: Path, weight: float = 1.0) -> str:
    """Key of a model with an adapter; both decide the pixels. ModelError if there is no adapter in the folder."""
    try:
        with (folder / LORA_FILE).open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            # Without the weight where it is 1, as stored keys have it.
            return key_of(model_key, digest) if weight == 1 else key_of(model_key, digest, weight)
    except OSError as error:
        raise ModelError(f"no adapter in {folder}: {error}; it holds {LORA_FILE}") from None


@dataclass(frozen=True)
class ModelLimits:
    """The requests that a model accepts."""

    model_key: str
    width_px: int  # size of an image whose request gives none
    height_px: int
    side_step_px: int  # sides are multiples of this
    max_side_px: int
    max_steps: int
    schedulers: tuple[str, ...]  # the first is the default
    loras: tuple[str, ...]


def read_model_limits(folder: Path | str, loras: Iterable[str] = ()) -> ModelLimits:
    """The limits of a pipeline folder or hub id, equal to `ContinuousBatcher.limits` of the loaded model.

    A scheduler whose settings are unusual may turn out unsupported when the model is loaded; requests for it are
    refused then.

    Raises:
        ModelError: The folder is not a pipeline, or the model is not made for square images.
    """
    # Only the small configuration files are read; the loaded model gives the same limits.
    folder = local_folder(folder)
    kind = pipeline_kind(folder)
    network, vae = (read_json(folder / part / "config.json") for part in (kind.network, "vae"))
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    cells, cell_px = kind.side(folder, network), 2 ** (len(vae["block_out_channels"]) - 1)
    return ModelLimits(
        model_key=model_key(folder),
        width_px=cells * cell_px,
        height_px=cells * cell_px,
        side_step_px=cell_px * kind.cells_per_step(network),
        max_side_px=MAX_SIDE_FACTOR * cells * cell_px,
        max_steps=int(scheduler.get("num_train_timesteps", DEFAULT_TIMESTEPS)) - 1,
        schedulers=compatible_schedulers(scheduler),
        loras=tuple(loras),
    )
