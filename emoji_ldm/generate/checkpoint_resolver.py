"""Where a model comes from, and the key of what lies there; light, so that planning needs no torch.

What a model can draw, told by its files alone; light, so that a service knows it before a replica has loaded it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from emoji_ldm.config import Config, key_of
from emoji_ldm.dataset import checkpoint_aliases, checkpoints
from emoji_ldm.errors import ModelError
from emoji_ldm.generate.request import fitting_schedulers
from emoji_ldm.latents.pipeline_source import HUB_ID, MODEL_INDEX, PIPELINE_PARTS, local_folder, read_json
from emoji_ldm.store import Store

CACHE_FOLDER = Path.home() / ".cache" / "emoji-ldm"  # for files of a store that is not local
ALIAS_PREFIX = "tag:"  # before the name of a checkpoint that `emoji-ldm train --tag` gave
LORA_FILE = "pytorch_lora_weights.safetensors"  # as diffusers' save_lora_weights names it, and our training
IGNORED_SETTINGS = ("architectures", "dtype", "torch_dtype", "transformers_version")  # settings that change no pixel


def model_key(folder: Path | str) -> str:
    """Key of all that decides a seed's pixels, from a pipeline's files alone: weights, settings, vocabulary, noise."""
    folder = local_folder(folder)
    facts: list[object] = []
    for path in sorted(path for part in PIPELINE_PARTS for path in (folder / part).iterdir()):
        if path.name in ("config.json", "scheduler_config.json"):
            settings = read_json(path)
            facts.append({name: settings[name] for name in settings if name[0] != "_" and name not in IGNORED_SETTINGS})
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
    if is_moving_reference(checkpoint):
        found = resolve_reference(config, store, checkpoint)
        return found.fetch(cache, "pipeline"), found.uri
    path = checkpoint.removeprefix(store.uri).strip("/")
    if store.exists(path, checkpoints.MANIFEST_FILE):
        found = checkpoints.Checkpoint(store, path, 0)
        return found.fetch(cache, "pipeline"), found.uri
    for folder in (Path(checkpoint).expanduser(), Path(checkpoint).expanduser() / "pipeline"):
        if (folder / MODEL_INDEX).is_file():
            return folder.absolute(), str(folder.absolute())
    if store.exists(path, MODEL_INDEX):
        store.download(cache / path, path)
        return cache / path, f"{store.uri}/{path}"
    if HUB_ID.fullmatch(checkpoint) and not Path(checkpoint).exists():
        return checkpoint, checkpoint
    raise ModelError(
        f"checkpoint {checkpoint!r} is neither a pipeline folder (with {MODEL_INDEX}), nor a checkpoint in {store.uri}, "
        "nor a hub id; leave it empty to take the run's newest"
    )


def is_moving_reference(checkpoint: str) -> bool:
    """Whether a name may mean another checkpoint later."""
    return not checkpoint or checkpoint.startswith(ALIAS_PREFIX)


def resolve_reference(config: Config, store: Store, checkpoint: str) -> checkpoints.Checkpoint:
    """The checkpoint that a name which `may_move` means now; ModelError if there is none."""
    if not checkpoint:
        return checkpoints.newest_checkpoint(store, config.run, "unet")
    return checkpoints.Checkpoint(
        store, checkpoint_aliases.resolve_alias(store, checkpoint.removeprefix(ALIAS_PREFIX)), 0
    )


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
        if (local / LORA_FILE).is_file():
            return local.absolute()
    path = value.removeprefix(store.uri).strip("/")
    for inside in (path, f"{path}/lora", f"{path}/pipeline/lora"):
        if store.exists(inside, LORA_FILE):
            store.download(cache / inside, inside)
            return cache / inside
    raise ModelError(f"{option}={value}: no {LORA_FILE} there, neither in a local folder nor in {store.uri}")


def training_data_versions(store: Store, uri: str) -> dict[str, int]:
    """Versions of the tables that a model learned from, {table: version}, where its checkpoint tells."""
    path = uri.removeprefix(store.uri).strip("/")
    if not uri.startswith(store.uri) or not store.exists(path, checkpoints.MANIFEST_FILE):
        return {}
    return dict(checkpoints.Checkpoint(store, path, 0).manifest().get("versions", {}))


DEFAULT_TIMESTEPS = 1000  # of diffusers' schedulers where a configuration does not say
MAX_SIDE_FACTOR = 2  # sides up to so many times the model's own


@dataclass(frozen=True)
class ModelLimits:
    """What weights can draw."""

    model_key: str
    width_px: int  # of a picture where a draw does not say
    height_px: int
    side_step_px: int  # sides are multiples of this
    max_side_px: int
    max_steps: int
    schedulers: tuple[str, ...]  # the first is what "" means
    loras: tuple[str, ...]


def read_model_limits(folder: Path | str, loras: Iterable[str] = ()) -> ModelLimits:
    """The bounds of a pipeline folder or hub id, as `Batcher.bounds` tells them once it is loaded.

    A scheduler with exotic settings may be missing there: its draws are refused then.

    Raises:
        ModelError: It is no such pipeline, or not made for square pictures.
    """
    folder = local_folder(folder)
    unet, vae = (read_json(folder / part / "config.json") for part in ("unet", "vae"))
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    cells, cell_px = unet.get("sample_size"), 2 ** (len(vae["block_out_channels"]) - 1)
    if not isinstance(cells, int):
        raise ModelError(f"{folder / 'unet'}: sample_size={cells} is no number; only models of square pictures work")
    return ModelLimits(
        model_key(folder), cells * cell_px, cells * cell_px, side_step_px(cell_px, len(unet["block_out_channels"])),
        MAX_SIDE_FACTOR * cells * cell_px, int(scheduler.get("num_train_timesteps", DEFAULT_TIMESTEPS)) - 1,
        fitting_schedulers(scheduler), tuple(loras),
    )  # fmt: skip


def side_step_px(cell_px: int, num_resolutions: int) -> int:
    """Sides are multiples of this: a U-Net halves a latent, of so many pixels per cell, once per further resolution."""
    return int(cell_px * 2 ** (num_resolutions - 1))


def lora_key(model_key: str, folder: Path) -> str:
    """Key of a model with an adapter: both decide the pixels. Light, so that planning needs no torch.

    Raises:
        ModelError: There is no adapter.
    """
    try:
        with (folder / LORA_FILE).open("rb") as stream:
            return key_of(model_key, hashlib.file_digest(stream, "sha256").hexdigest())
    except OSError as error:
        raise ModelError(f"no adapter in {folder}: {error}; it holds {LORA_FILE}") from None
