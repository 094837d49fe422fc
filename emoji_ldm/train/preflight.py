"""Room on disks and in memory: looked for before work starts, and told in one line when it runs out.

What would stop a training, told by the driver in one line before workers and GPUs are asked for.
"""

from __future__ import annotations

import errno
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
from emoji_ldm.dataset.versions.refs import open_at
from emoji_ldm.errors import DatasetError, StoreError
from emoji_ldm.latents.augmentation import augmentation_keys
from emoji_ldm.latents.cache import good_captions
from emoji_ldm.schemas import CAPTIONS, IMAGES, LATENTS, TEXT_EMBEDDINGS
from emoji_ldm.store import Store
from emoji_ldm.train.engines.distributed import DistributedContext
from emoji_ldm.train.metrics import trackers
from emoji_ldm.train.run_fencing import TrainingOutOfMemory
from emoji_ldm.train.tasks import sampler
from emoji_ldm.train.training_args import RunContext, TrainingArgs

BYTES_PER_VALUE = 4  # of a stored number: all state is fp32
DISK_OVERHEAD_FACTOR = 1.25  # what lies beside those numbers: frozen parts of the pipeline, logs, samples
OUT_OF_MEMORY_TEXTS = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")


def check_disk_space(
    place: RunContext, plan: TrainingArgs, world: DistributedContext, facts: Mapping[str, int]
) -> None:
    """Raise StoreError, on every rank, unless disks have room for the run's checkpoints; a collective.

    A checkpoint holds weights, two moments and the averages of what is trained, spread over the ranks, and a whole
    model. A local store must hold one more than `keep`: a new one is written before an old one goes. What lies there
    already is counted.

    Args:
        place: Its scratch folder, and its store if that is a local one.
        plan: Gives `keep`.
        world: Each rank looks at its own disks.
        facts: The task's: num_parameters that learn, num_weights in all.
    """
    world.agree(lambda: _check_disks(_required_bytes(place, plan, facts)))


def _required_bytes(place: RunContext, plan: TrainingArgs, facts: Mapping[str, int]) -> dict[str, float]:
    """{folder: bytes}."""
    learn = facts["num_parameters"]
    state = BYTES_PER_VALUE * learn * (3 + (len(plan.ema_widths) or (plan.ema_decay > 0)))
    model = BYTES_PER_VALUE * facts.get("num_weights", learn)
    needs = {str(place.scratch): DISK_OVERHEAD_FACTOR * model}
    if not place.store.is_s3:
        one, there = DISK_OVERHEAD_FACTOR * (state + model), _existing_bytes(place, plan)
        needs[place.store.root] = max(one, one * (plan.keep + 1) - there)
    return needs


def _existing_bytes(place: RunContext, plan: TrainingArgs) -> int:
    """Bytes that the run's checkpoints take already: a run that goes on writes no more beside them than it keeps."""
    return sum(checkpoints.file_sizes(place.store, f"checkpoints/{place.config.run}/{plan.kind}").values())


def _check_disks(needs: Mapping[str, float]) -> None:
    for folders, need in _group_by_disk(needs).items():
        free = shutil.disk_usage(folders[0]).free
        if free < need:
            raise StoreError(
                f"{' and '.join(folders)}: {free / 2**30:.1f} GiB free, the run's checkpoints need about "
                f"{need / 2**30:.1f} GiB; "
                "make room, lower train.keep_last, or name another store (store=...) or scratch folder (TMPDIR)"
            )


def _group_by_disk(needs: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    """{folders on one disk: what they need together}."""
    disks: dict[int, list[str]] = {}
    for folder in needs:
        Path(folder).mkdir(parents=True, exist_ok=True)
        disks.setdefault(Path(folder).stat().st_dev, []).append(folder)
    return {tuple(folders): sum(needs[folder] for folder in folders) for folders in disks.values()}


@contextmanager
def explain_exhaustion(plan: TrainingArgs) -> Iterator[None]:
    """Turn what a full memory or disk raises into an OutOfMemory or StoreError that says what to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not _is_out_of_memory(error):
            raise
        raise TrainingOutOfMemory(_out_of_memory_text(plan, error)) from None
    except (OSError, SafetensorError, StoreError) as error:
        if not _is_disk_full(error):
            raise
        where = getattr(error, "filename", None) or f"the store or of the scratch folder {tempfile.gettempdir()}"
        raise StoreError(
            f"{plan.section}: no room is left on the disk of {where}; the last checkpoint stays. Make room, lower "
            "train.keep_last, or set TMPDIR to another disk, and run the command again"
        ) from None


def _is_disk_full(error: Exception) -> bool:
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in OUT_OF_MEMORY_TEXTS)


def _out_of_memory_text(plan: TrainingArgs, error: BaseException) -> str:
    if plan.section == "autoencoder":
        remedies = [f"lower autoencoder.batch_size (now {plan.batch_size}) or use more workers"]
    else:
        size = plan.micro_batch_size or f"0, all of a worker's share of {plan.batch_size}"
        remedies = [f"lower train.micro_batch_size (now {size})"]
        remedies += [] if plan.gradient_checkpointing else ["set train.gradient_checkpointing=true"]
        remedies += [] if plan.zero_stage == 3 else [f"raise train.zero_stage (now {plan.zero_stage})"]
    text = " ".join(str(error).split())[:160]
    return f"{plan.section}: out of memory; the last checkpoint stays. To mend it, {', or '.join(remedies)}. ({text})"


def check_training(config: Config, plan: TrainingArgs, store: Store, num_workers: int) -> list[str]:
    """Raise what can be known before work starts; returns warnings, a line each.

    Raises:
        ConfigError: The batch does not divide, or a tracker is missing or away.
        DatasetError: There are no images, no captions, or no latents of this codec and text encoder.
        ModelError: The codec or the text encoder cannot be loaded.
    """
    section = plan.section
    slots = sampler.rank_slots(0, num_workers, plan.batch_size, field=f"{section}.batch_size")
    sampler.split_micro_batches(slots, plan.micro_batch_size, field=f"{section}.micro_batch_size")
    trackers.check_trackers(plan)
    num_images = _check_images(config, store) if section == "autoencoder" else _check_latents(config, store)
    if num_images and plan.batch_size > num_images:
        return [f"{section}.batch_size={plan.batch_size} is more than the {num_images} images: a step sees some twice"]
    return []


def _check_images(config: Config, store: Store) -> int:
    num_images = int(open_at(store, config.as_of, IMAGES)[IMAGES.name].count())
    if not num_images:
        raise DatasetError(f"{store.uri} has no images; run: emoji-ldm crawl")
    return num_images


def _check_latents(config: Config, store: Store) -> int:
    """Number of images to train on; 0 where DreamBooth brings its own."""
    if config.train.concepts:
        return 0
    _check_images(config, store)
    tables = open_at(store, config.as_of, IMAGES, CAPTIONS)
    captions = good_captions(tables[IMAGES.name], tables[CAPTIONS.name])
    if not captions:
        raise DatasetError(f"{store.uri} has no captioned image; run: emoji-ldm caption")
    from emoji_ldm.train.tasks.pipeline_export import load_frozen  # brings diffusers and transformers

    with tempfile.TemporaryDirectory(prefix="emoji-ldm-") as cache:
        frozen = load_frozen(config, store, Path(cache))
    texts = {"", *(caption for several in captions.values() for caption in several)}
    for key in augmentation_keys(frozen.codec.key, config.latents):
        _check_encoded(Table(store, LATENTS), captions.keys(), key, config.latents)
    _check_encoded(Table(store, TEXT_EMBEDDINGS), texts, frozen.text.key, config.latents)
    return len(captions)


def _check_encoded(table: Table, wanted: Collection[str], key: str, latents: LatentsConfig) -> None:
    """Raise DatasetError unless the table has a row of this codec (or text encoder) for all that is wanted."""
    of_images = table.spec is LATENTS
    column, name = ("image_id", "codec_key") if of_images else ("caption", "encoder_key")
    found = table.read([column], filter=pc.field(name) == key)[column].to_pylist() if table.exists else []
    missing = len(set(wanted) - set(found))
    if not missing:
        return
    ours = latents.vae if of_images else latents.text_encoder
    things, made = ("images", "latents of codec") if of_images else ("captions", "states of text encoder")
    text = f"{missing} of {len(wanted)} {things} have no {made} {ours!r} ({key})"
    if others := _other_encoders(table, "vae" if of_images else "text_encoder", key, name):
        text += f"; the store has those of {others}"
    raise DatasetError(f"{text}; run: emoji-ldm latents latents.{'vae' if of_images else 'text_encoder'}={ours}")


def _other_encoders(table: Table, field: str, key: str, column: str) -> str:
    """What other codecs the table's rows are of: names as its commits tell them, and keys."""
    if not table.exists:
        return ""
    keys = sorted(set(table.read([column])[column].to_pylist()) - {key})
    told = [str(_latents_option(entry, field)) for entry in table_commits(table) if entry["stage"]]
    names = sorted(set(told) - {"None"})
    return f"{', '.join(map(repr, names))} ({', '.join(keys)})" if keys else ""


def _latents_option(entry: Mapping[str, Any], field: str) -> Any:
    return json.loads(entry["config"] or "{}").get("latents", {}).get(field)
