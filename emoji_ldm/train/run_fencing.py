"""Who may write a run's records: the driver that started last. One thought dead may have left its workers running."""

from __future__ import annotations

import json
import uuid

from emoji_ldm.errors import EmojiLdmError, JobError, StoreError
from emoji_ldm.store import Store

OWNER_POLL_S = 5.0  # a group that lost its run stops within this time and a few steps


def claim_run(store: Store, run: str, section: str) -> str:
    """Take over a run's training; returns the token that its workers show before they write."""
    token = uuid.uuid4().hex
    store.write(token.encode(), "runs", run, section, "owner")
    return token


def owns_run(store: Store, run: str, section: str, token: str) -> bool:
    """Whether nobody took over since `token` was given; the empty token always owns.

    So does any while the store is away: who then publishes meets the store's own error.
    """
    if not token:
        return True
    try:
        return store.read("runs", run, section, "owner").decode() == token
    except StoreError:
        return True  # a store that fails for a moment fences nobody


def run_taken_over_error(run: str, section: str) -> JobError:
    """The error of a training that lost its run."""
    return JobError(f"another driver took over the {section} of run {run!r}: this one stops without publishing")


class TrainingOutOfMemory(JobError):
    """Memory ran out on this rank: others, which may wait for it, do not know."""


def error_kind(error: EmojiLdmError) -> str:
    """Its name in `emoji_ldm.errors`."""
    return "JobError" if isinstance(error, TrainingOutOfMemory) else type(error).__name__


def record_fatal_error(store: Store, run: str, section: str, owner: str, error: EmojiLdmError) -> None:
    """Let one rank end the training for good: the group that Ray starts again finds this and stops."""
    store.write(json.dumps([error_kind(error), str(error)]).encode(), "runs", run, section, f"verdict-{owner}")


def read_fatal_error(store: Store, run: str, section: str, owner: str) -> list[str] | None:
    """[kind, text] of the error that ended the training of this owner for good."""
    parts = ("runs", run, section, f"verdict-{owner}")
    return list(json.loads(store.read(*parts))) if store.exists(*parts) else None


def clear_fatal_error(store: Store, run: str, section: str, owner: str) -> None:
    """Clean up behind a driver."""
    store.remove("runs", run, section, f"verdict-{owner}")
