"""Fencing: only the driver that started last may publish for a run; and fatal errors that outlive a worker group.

A driver that was thought dead may come back, or may have left workers running. Two groups would then train the same
run and write checkpoints over each other. So each driver writes a fresh random *owner token* into the store and hands
it to its workers. Whoever is about to publish reads the token back, and stops if it is no longer its own. This is the
fencing token of distributed locks, except that the check is made by the writer and not by the store: a group may
still finish the write that it has begun. Checkpoint folders therefore carry the attempt in their name.

Errors that retrying cannot cure travel in the other direction: one rank records the error under the owner's token, and
the group that Ray starts next finds the record and stops.
"""

from __future__ import annotations

import json
import uuid

from emoji_ldm.errors import EmojiLdmError, JobError, StoreError
from emoji_ldm.store import Store

OWNER_POLL_S = 5.0  # a group that lost its run stops within this time and a few steps


class TrainingOutOfMemory(JobError):
    """Memory ran out on this rank; the other ranks, which may wait for it, do not know."""


def claim_run(store: Store, run: str, section: str) -> str:
    """Take over a run's training; returns the token that its workers show before they write."""
    # The token is random and not a counter, which would need an atomic increment that not every object store has.
    token = uuid.uuid4().hex
    store.write(token.encode(), "runs", run, section, "owner")
    return token


def owns_run(store: Store, run: str, section: str, token: str) -> bool:
    """Whether nobody took the run over since `token` was given out; the empty token always owns it.

    So does every token while the store cannot be reached: a short outage must not end a training, and whoever
    publishes during one gets the store's own error.
    """
    # A training that was started without a driver, as tests and notebooks do, has nobody to be fenced from.
    if not token:
        return True
    try:
        return store.read("runs", run, section, "owner").decode() == token
    except StoreError:
        return True


def run_taken_over_error(run: str, section: str) -> JobError:
    """The error of a training that lost its run."""
    return JobError(f"another driver took over the {section} of run {run!r}: this one stops without publishing")


def error_kind(error: EmojiLdmError) -> str:
    """The name of the error's class in `emoji_ldm.errors`."""
    # The class is private to training, but the driver looks the name up among the public ones.
    return "JobError" if isinstance(error, TrainingOutOfMemory) else type(error).__name__


def record_fatal_error(store: Store, run: str, section: str, owner_token: str, error: EmojiLdmError) -> None:
    """Let one rank end the training for good: the group that Ray starts next finds this and stops."""
    store.write(json.dumps([error_kind(error), str(error)]).encode(), "runs", run, section, f"verdict-{owner_token}")


def read_fatal_error(store: Store, run: str, section: str, owner_token: str) -> list[str] | None:
    """[kind, text] of the error that ended the training of this owner for good."""
    parts = ("runs", run, section, f"verdict-{owner_token}")
    # The token is part of the name, so a driver never finds the error of an earlier one.
    return list(json.loads(store.read(*parts))) if store.exists(*parts) else None


def clear_fatal_error(store: Store, run: str, section: str, owner_token: str) -> None:
    """Remove the record when the driver ends."""
    store.remove("runs", run, section, f"verdict-{owner_token}")
