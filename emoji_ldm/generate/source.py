"""Where a model comes from, and the key of what lies there; light, so that planning needs no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from emoji_ldm.config import Config, key_of
from emoji_ldm.dataset import checkpoints, labels
from emoji_ldm.errors import ModelError
from emoji_ldm.latents.source import HUB_ID, INDEX, PARTS, local_folder, read_json
from emoji_ldm.store import Store

CACHE = Path.home() / ".cache" / "emoji-ldm"  # for files of a store that is not local
TAG = "tag:"  # before the name of a checkpoint that `emoji-ldm train --tag` gave
ADAPTERS = "pytorch_lora_weights.safetensors"  # as diffusers' save_lora_weights names it, and our training
STAMPS = ("architectures", "dtype", "torch_dtype", "transformers_version")  # settings that change no pixel


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
        checkpoint: "", tag:NAME, a local folder (a pipeline or a checkpoint of ours), a path or URI in the store,
            a hub id.

    Raises:
        ModelError: Nothing of that name is there, or the run has no checkpoint yet.
    """
    if may_move(checkpoint):
        found = meant(config, store, checkpoint)
        return found.fetch(cache, "pipeline"), found.uri
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


def may_move(checkpoint: str) -> bool:
    """Whether a name may mean another checkpoint later."""
    return not checkpoint or checkpoint.startswith(TAG)


def meant(config: Config, store: Store, checkpoint: str) -> checkpoints.Checkpoint:
    """The checkpoint that a name which `may_move` means now; ModelError if there is none."""
    if not checkpoint:
        return checkpoints.newest(store, config.run, "unet")
    return checkpoints.Checkpoint(store, labels.get(store, checkpoint.removeprefix(TAG)), 0)


def adapter_folder(store: Store, cache: Path, option: str, value: str) -> Path:
    """A local folder with LoRA adapters.

    Args:
        store: Where checkpoints lie.
        cache: Local folder for files of a store that is not local.
        option: That names them, for the error.
        value: A local folder, or a path or URI in the store; of a checkpoint that learned adapters, its folder does.

    Raises:
        ModelError: No adapters lie there.
    """
    for local in (folder := Path(value).expanduser(), folder / "lora", folder / "pipeline" / "lora"):
        if (local / ADAPTERS).is_file():
            return local.absolute()
    path = value.removeprefix(store.uri).strip("/")
    for inside in (path, f"{path}/lora", f"{path}/pipeline/lora"):
        if store.exists(inside, ADAPTERS):
            store.download(cache / inside, inside)
            return cache / inside
    raise ModelError(f"{option}={value}: no {ADAPTERS} there, neither in a local folder nor in {store.uri}")


def data_versions(store: Store, uri: str) -> dict[str, int]:
    """Versions of the tables that a model learned from, {table: version}, where its checkpoint tells."""
    path = uri.removeprefix(store.uri).strip("/")
    if not uri.startswith(store.uri) or not store.exists(path, checkpoints.MANIFEST):
        return {}
    return dict(checkpoints.Checkpoint(store, path, 0).manifest().get("versions", {}))
