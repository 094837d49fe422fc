"""Who may write a run's records: the driver that started last. One thought dead may have left its workers running."""

from __future__ import annotations

import uuid

from emoji_ldm.errors import JobError, StoreError
from emoji_ldm.store import Store

LOOK_S = 5.0  # a group that lost its run stops within this time and a few steps


def claim(store: Store, run: str, section: str) -> str:
    """Take over a run's training; returns the token that its workers show before they write."""
    token = uuid.uuid4().hex
    store.write(token.encode(), "runs", run, section, "owner")
    return token


def owns(store: Store, run: str, section: str, token: str) -> bool:
    """Whether nobody took over since `token` was given; the empty token always owns.

    So does any while the store is away: who then publishes meets the store's own error.
    """
    if not token:
        return True
    try:
        return store.read("runs", run, section, "owner").decode() == token
    except StoreError:
        return True  # a store that fails for a moment fences nobody


def taken_over(run: str, section: str) -> JobError:
    """The error of a training that lost its run."""
    return JobError(f"another driver took over the {section} of run {run!r}: this one stops without publishing")
