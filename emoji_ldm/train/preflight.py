"""Checks before a training starts, and readable errors for disks and memory that run out later.

`check_training` runs on the driver, before workers and GPUs are requested: data, models and trackers must be there.
`check_disk_space` runs on every rank: the checkpoints to come must fit. `explain_exhaustion` wraps the training itself.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from safetensors import SafetensorError

from emoji_ldm.config import Config, LatentsConfig
from emoji_ldm.dataset import checkpoints
from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions.history import table_commits
from emoji_ldm.dataset.versions.refs import open_tables
from emoji_ldm.errors import MissingInputError, StoreError
from emoji_ldm.latents.augmentation import augmentation_keys
from emoji_ldm.latents.cache import good_captions
from emoji_ldm.latents.latent_loading import data_versions
from emoji_ldm.latents.tag_orders import with_tag_orders
from emoji_ldm.schemas import CAPTIONS, IMAGES, LATENTS, TEXT_EMBEDDINGS
from emoji_ldm.store import Store
from emoji_ldm.train.engines.distributed import DistributedContext
from emoji_ldm.train.metrics import trackers
from emoji_ldm.train.run_fencing import TrainingOutOfMemory
from emoji_ldm.train.store_outage import is_disk_full
from emoji_ldm.train.tasks import sampler
from emoji_ldm.train.training_args import RunContext, TrainingArgs

BYTES_PER_VALUE = 4  # all stored state is fp32
# Allows for what lies beside the state: frozen parts of the pipeline, logs, samples.
DISK_OVERHEAD_FACTOR = 1.25
OUT_OF_MEMORY_TEXTS = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")


def check_disk_space(
    context: RunContext, args: TrainingArgs, ranks: DistributedContext, facts: Mapping[str, int]
) -> None:
    """Raise StoreError, on every rank, unless the disks have room for the run's checkpoints; a collective.

    A checkpoint holds weights, two moments and the averages of all trained parameters, spread over the ranks, and a
    whole model. A local store must hold one more than `keep_last`, since a new checkpoint is written before an old one
    is removed. The bytes of existing checkpoints of the run are subtracted.

    Args:
        context: The run's folders: the scratch folder is checked, and the store if it is local.
        args: `keep_last`, and which averages are kept.
        ranks: Each rank checks its own disks.
        facts: The task's: num_parameters (trained), num_weights (all).
    """
    ranks.run_on_all(lambda: _check_disks(_required_bytes(context, args, facts), args.section))


def _required_bytes(context: RunContext, args: TrainingArgs, facts: Mapping[str, int]) -> dict[str, float]:
    """`{folder: bytes that the training will write there}`."""
    trained = facts["num_parameters"]
    # The three are the weights and Adam's two moments.
    state = BYTES_PER_VALUE * trained * (3 + (len(args.ema_widths) or (args.ema_decay > 0)))
    model = BYTES_PER_VALUE * facts.get("num_weights", trained)
    needs = {str(context.scratch_dir): DISK_OVERHEAD_FACTOR * model}
    if not context.store.is_s3:
        checkpoint = DISK_OVERHEAD_FACTOR * (state + model)
        total = checkpoint * (args.keep_last + 1)
        # Even a run that has all its checkpoints needs room for one more, since the oldest is removed after the newest
        # is complete.
        needs[context.store.root] = max(checkpoint, total - _existing_bytes(context, args))
    return needs


def _existing_bytes(context: RunContext, args: TrainingArgs) -> int:
    """Bytes of the run's existing checkpoints, which a resumed run replaces one by one."""
    return sum(checkpoints.file_sizes(context.store, f"checkpoints/{context.config.run}/{args.kind}").values())


def _check_disks(needs: Mapping[str, float], section: str) -> None:
    for folders, need in _group_by_disk(needs).items():
        free = shutil.disk_usage(folders[0]).free
        if free < need:
            raise StoreError(
                f"{' and '.join(folders)}: {free / 2**30:.1f} GiB free, the run's checkpoints need about "
                f"{need / 2**30:.1f} GiB; "
                f"make room, lower {section}.keep_last, or name another store (store=...) or scratch folder (TMPDIR)"
            )


def _group_by_disk(needs: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    """`{folders on one disk: bytes they need together}`."""
    disks: dict[int, list[str]] = {}
    for folder in needs:
        # The usage of a disk can only be read at an existing folder.
        Path(folder).mkdir(parents=True, exist_ok=True)
        # Store and scratch folder often share a disk, whose free bytes must not be counted twice.
        disks.setdefault(Path(folder).stat().st_dev, []).append(folder)
    return {tuple(folders): sum(needs[folder] for folder in folders) for folders in disks.values()}


@contextmanager
def explain_exhaustion(args: TrainingArgs) -> Iterator[None]:
    """Turn the errors of full memory or disks into a TrainingOutOfMemory or StoreError that names a remedy."""
    try:
        yield
    # torch.OutOfMemoryError is a RuntimeError, and libraries raise plain ones with their own words.
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise TrainingOutOfMemory(_out_of_memory_text(args, error)) from None
    except (OSError, SafetensorError, StoreError) as error:
        if not is_disk_full(error):
            raise
        where = getattr(error, "filename", None) or f"the store or of the scratch folder {tempfile.gettempdir()}"
        raise StoreError(
            f"{args.section}: no space is left on the disk of {where}; the last checkpoint is kept. Make room, lower "
            f"{args.section}.keep_last, or set TMPDIR to another disk, and run the command again"
        ) from None


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in OUT_OF_MEMORY_TEXTS)


def _out_of_memory_text(args: TrainingArgs, error: BaseException) -> str:
    section = args.section
    size = args.micro_batch_size or f"null, a worker's whole share of {args.batch_size}"
    remedies = [f"lower {section}.micro_batch_size (now {size})"]
    remedies += [] if args.gradient_checkpointing else [f"set {section}.gradient_checkpointing=true"]
    remedies += [] if args.zero_stage == 3 else [f"raise {section}.zero_stage (now {args.zero_stage})"]
    # Sample grids are drawn beside the steps, on rank 0's device.
    remedies += (
        [] if args.sample_every is None else [f"draw no samples beside the training ({section}.sample_every=null)"]
    )
    text = " ".join(str(error).split())[:160]
    return (
        f"{args.section}: out of memory; the last checkpoint is kept. As a remedy, {', or '.join(remedies)}. ({text})"
    )


def check_training(config: Config, args: TrainingArgs, store: Store, num_workers: int) -> list[str]:
    """Raise all errors that can be found before work starts; returns warnings, a line each.

    Raises:
        ConfigError: The batch does not divide evenly, or a tracker is not installed or cannot be reached.
        DatasetError: There are no images, no captions, or no latents of this autoencoder and text encoder.
        ModelError: The autoencoder or the text encoder cannot be loaded.
    """
    section = args.section
    # Both functions are called for their errors alone.
    slots = sampler.rank_slots(0, num_workers, args.batch_size, field=f"{section}.batch_size")
    sampler.split_micro_batches(slots, args.micro_batch_size, field=f"{section}.micro_batch_size")
    trackers.check_trackers(args)
    num_images = _check_images(config, store) if section == "autoencoder" else _check_latents(config, store)
    # Training works nevertheless, as `sampler.sample_indices` lets epochs follow one another inside a batch, so a
    # warning is enough.
    if num_images and args.batch_size > num_images:
        return [f"{section}.batch_size={args.batch_size} exceeds the {num_images} images: a step contains some twice"]
    return []


def _check_images(config: Config, store: Store) -> int:
    num_images = int(open_tables(store, config.as_of, IMAGES)[IMAGES.name].count())
    if not num_images:
        raise MissingInputError(f"{store.uri} has no images; run: emoji-ldm crawl")
    return num_images


def _check_latents(config: Config, store: Store) -> int:
    """Number of images to train on; 0 for DreamBooth, which has its own folders."""
    if config.train.dreambooth:
        return 0
    _check_images(config, store)
    # The import is here because it loads diffusers and transformers, which the check of an autoencoder training does
    # without.
    from emoji_ldm.train.tasks.pipeline_export import load_frozen

    chosen = []
    for source in data_versions(config, store):
        tables = open_tables(source.store, source.as_of, IMAGES, CAPTIONS)
        captions = good_captions(tables[IMAGES.name], tables[CAPTIONS.name])
        if not captions:
            raise MissingInputError(f"{source.store.uri} has no captioned image; run: emoji-ldm caption")
        chosen.append((source.store, captions))
    # The keys of latents and states are hashes of weights, so the models have to be loaded to know them.
    with tempfile.TemporaryDirectory(prefix="emoji-ldm-") as cache:
        frozen = load_frozen(config, store, Path(cache))
    for place, captions in chosen:
        texts = with_tag_orders((text for several in captions.values() for text in several), config.latents.tag_orders)
        for key in augmentation_keys(frozen.vae.key, config.latents.augmentations):
            _check_encoded(Table(place, LATENTS), captions.keys(), key, config.latents)
        _check_encoded(Table(place, TEXT_EMBEDDINGS), {"", *texts}, frozen.text.key, config.latents)
    return sum(len(captions) for _, captions in chosen)


def _check_encoded(table: Table, required: Collection[str], key: str, latents: LatentsConfig) -> None:
    """Raise DatasetError unless the table has a row of the model `key` for each of the required images or captions."""
    of_images = table.spec is LATENTS
    column, name = ("image_id", "vae_key") if of_images else ("caption", "encoder_key")
    found = table.read([column], filter=pc.field(name) == key)[column].to_pylist() if table.exists else []
    missing = len(set(required) - set(found))
    if not missing:
        return
    ours = latents.vae if of_images else latents.text_encoder
    subject, encoded = ("images", "latents of codec") if of_images else ("captions", "states of text encoder")
    text = f"{missing} of {len(required)} {subject} have no {encoded} {ours!r} ({key}) in {table.store.uri}"
    if others := _other_encoders(table, "vae" if of_images else "text_encoder", key, name):
        text += f"; the store has those of {others}"
    raise MissingInputError(f"{text}; run: emoji-ldm latents latents.{'vae' if of_images else 'text_encoder'}={ours}")


def _other_encoders(table: Table, field: str, key: str, column: str) -> str:
    """Which other models the table's rows were made with: names as its commits record them, and keys."""
    if not table.exists:
        return ""
    keys = sorted(set(table.read([column])[column].to_pylist()) - {key})
    recorded = [str(_latents_option(entry, field)) for entry in table_commits(table) if entry["stage"]]
    # A commit may have been made with another model of the same name, so both names and keys are shown.
    names = sorted(set(recorded) - {"None"})
    return f"{', '.join(map(repr, names))} ({', '.join(keys)})" if keys else ""


def _latents_option(entry: Mapping[str, Any], field: str) -> Any:
    # In commits of older versions the option `latents.vae` has its former name, `latents.codec`.
    options = json.loads(entry["config"] or "{}").get("latents", {})
    return options.get(field, options.get("codec") if field == "vae" else None)
