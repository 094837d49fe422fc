"""Room on disks and in memory: looked for before work starts, and told in one line when it runs out."""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from emoji_ldm.dataset import checkpoints
from emoji_ldm.errors import EmojiLdmError, JobError, StoreError
from emoji_ldm.store import Store
from emoji_ldm.train.plan import Place, Plan
from emoji_ldm.train.world import World

BYTES = 4  # of a stored number: all state is fp32
BESIDE = 1.25  # what lies beside those numbers: frozen parts of the pipeline, logs, samples
FULL = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")


class OutOfMemory(JobError):
    """Memory ran out on this rank: others, which may wait for it, do not know."""


def check_room(place: Place, plan: Plan, world: World, facts: Mapping[str, int]) -> None:
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
    world.agree(lambda: _check_disks(_needs(place, plan, facts)))


def _needs(place: Place, plan: Plan, facts: Mapping[str, int]) -> dict[str, float]:
    """{folder: bytes}."""
    learn = facts["num_parameters"]
    state = BYTES * learn * (3 + (len(plan.ema_widths) or (plan.ema_decay > 0)))
    model = BYTES * facts.get("num_weights", learn)
    needs = {str(place.scratch): BESIDE * model}
    if not place.store.is_s3:
        one, there = BESIDE * (state + model), _there(place, plan)
        needs[place.store.root] = max(one, one * (plan.keep + 1) - there)
    return needs


def _there(place: Place, plan: Plan) -> int:
    """Bytes that the run's checkpoints take already: a run that goes on writes no more beside them than it keeps."""
    return sum(checkpoints.sizes(place.store, f"checkpoints/{place.config.run}/{plan.kind}").values())


def _check_disks(needs: Mapping[str, float]) -> None:
    for folders, need in _disks(needs).items():
        free = shutil.disk_usage(folders[0]).free
        if free < need:
            raise StoreError(
                f"{' and '.join(folders)}: {free / 2**30:.1f} GiB free, the run's checkpoints need about "
                f"{need / 2**30:.1f} GiB; "
                "make room, lower train.keep_last, or name another store (store=...) or scratch folder (TMPDIR)"
            )


def _disks(needs: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    """{folders on one disk: what they need together}."""
    disks: dict[int, list[str]] = {}
    for folder in needs:
        Path(folder).mkdir(parents=True, exist_ok=True)
        disks.setdefault(Path(folder).stat().st_dev, []).append(folder)
    return {tuple(folders): sum(needs[folder] for folder in folders) for folders in disks.values()}


@contextmanager
def telling(plan: Plan) -> Iterator[None]:
    """Turn what a full memory or disk raises into an OutOfMemory or StoreError that says what to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not _is_memory(error):
            raise
        raise OutOfMemory(_too_large(plan, error)) from None
    except (OSError, SafetensorError, StoreError) as error:
        if not _is_disk(error):
            raise
        where = getattr(error, "filename", None) or f"the store or of the scratch folder {tempfile.gettempdir()}"
        raise StoreError(
            f"{plan.section}: no room is left on the disk of {where}; the last checkpoint stays. Make room, lower "
            "train.keep_last, or set TMPDIR to another disk, and run the command again"
        ) from None


def kind_of(error: EmojiLdmError) -> str:
    """Its name in `emoji_ldm.errors`."""
    return "JobError" if isinstance(error, OutOfMemory) else type(error).__name__


def leave_verdict(store: Store, run: str, section: str, owner: str, error: EmojiLdmError) -> None:
    """Let one rank end the training for good: the group that Ray starts again finds this and stops."""
    store.write(json.dumps([kind_of(error), str(error)]).encode(), "runs", run, section, f"verdict-{owner}")


def verdict(store: Store, run: str, section: str, owner: str) -> list[str] | None:
    """[kind, text] of the error that ended the training of this owner for good."""
    parts = ("runs", run, section, f"verdict-{owner}")
    return list(json.loads(store.read(*parts))) if store.exists(*parts) else None


def forget_verdict(store: Store, run: str, section: str, owner: str) -> None:
    """Clean up behind a driver."""
    store.remove("runs", run, section, f"verdict-{owner}")


def _is_disk(error: Exception) -> bool:
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)


def _is_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in FULL)


def _too_large(plan: Plan, error: BaseException) -> str:
    if plan.section == "autoencoder":
        remedies = [f"lower autoencoder.batch_size (now {plan.batch_size}) or use more workers"]
    else:
        size = plan.micro_batch_size or f"0, all of a worker's share of {plan.batch_size}"
        remedies = [f"lower train.micro_batch_size (now {size})"]
        remedies += [] if plan.gradient_checkpointing else ["set train.gradient_checkpointing=true"]
        remedies += [] if plan.zero_stage == 3 else [f"raise train.zero_stage (now {plan.zero_stage})"]
    text = " ".join(str(error).split())[:160]
    return f"{plan.section}: out of memory; the last checkpoint stays. To mend it, {', or '.join(remedies)}. ({text})"
