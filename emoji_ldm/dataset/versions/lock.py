"""The store's lock: a vacuum that deletes files, and a command that names old versions, exclude each other.

A vacuum reads which files are referenced and then deletes the others, which may take hours. A tag, branch or restore
that came in between could reference files that are about to go, so each of them holds this lock. It is a lease: the
object refs/lease.json, created only if it is absent, says who holds it and until when, and a holder renews it during
long work. If a holder dies, others take the lock over once the lease has run out, `LOCK_DURATION` at most. (Clocks of
the machines are assumed to agree within a minute or so.)

Ordinary commits do not need the lock: they reference new files and those of the newest version, which a vacuum never
deletes.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from emoji_ldm.errors import DatasetError, StoreError
from emoji_ldm.store import Store

LOCK_PATH = ("refs", "lease.json")
LOCK_DURATION = timedelta(minutes=5)
MAX_WAIT_S = 20.0  # tags and branches take far less; a vacuum may take hours, and waiting for it makes no sense
POLL_INTERVAL_S = 0.2


@dataclass
class StoreLock:
    """A held lock: the right to delete old files or to name them. Call `renew` during long work."""

    store: Store
    holder: str  # the command, for the messages of others
    token: str  # random, tells this holder from others of the same command
    until: datetime

    def renew(self) -> None:
        """Extend the lease; cheap however often it is called, since it writes in the second half of the lease only.

        Raises:
            DatasetError: The lease ran out, so another command may hold the lock: stop.
        """
        left = self.until - datetime.now(UTC)
        if left < LOCK_DURATION / 2:
            if left < timedelta() or _read_holder(self.store).get("token") != self.token:
                raise DatasetError(f"{self.holder} took too long and lost its lock on {self.store.uri}; run it again")
            self.until = datetime.now(UTC) + LOCK_DURATION
            self.store.write(self.to_bytes(), *LOCK_PATH)

    def to_bytes(self) -> bytes:
        """The content of the lock file."""
        return json.dumps({"who": self.holder, "token": self.token, "until": self.until.isoformat()}).encode()


@contextmanager
def store_lock(store: Store, holder: str) -> Iterator[StoreLock]:
    """Hold the store's lock within the block.

    Args:
        store: The store to lock.
        holder: The command that asks, as others shall read it.

    Raises:
        DatasetError: Another command holds the lock and does not release it within 20 s.
    """
    lock = StoreLock(store, holder, uuid.uuid4().hex, datetime.now(UTC))
    polling = Retrying(
        retry=retry_if_result(lambda acquired: not acquired),
        wait=wait_fixed(POLL_INTERVAL_S),
        stop=stop_after_delay(MAX_WAIT_S),
    )
    try:
        polling(_try_acquire, lock)
    except RetryError:
        other = _read_holder(store)
        raise DatasetError(
            f"{holder} has to wait for {other.get('who', 'another command')}, which is running on {store.uri}; try "
            f"again later (if that command died: after {other.get('until', '')[:19]} UTC)"
        ) from None
    try:
        yield lock
    finally:
        if _read_holder(store).get("token") == lock.token:
            store.remove(*LOCK_PATH)


def _try_acquire(lock: StoreLock) -> bool:
    lock.until = datetime.now(UTC) + LOCK_DURATION
    if lock.store.write_if_absent(lock.to_bytes(), *LOCK_PATH):
        return True
    holder = _read_holder(lock.store)
    if not holder:
        return False  # it was released just now
    if datetime.fromisoformat(holder["until"]) > datetime.now(UTC):
        return holder["token"] == lock.token  # ours after all: a conditional PUT whose response was lost
    # The lease ran out. Several commands may find that at once and overwrite it one after the other; each waits for
    # the others' writes to land, and the last writer holds the lock.
    lock.store.write(lock.to_bytes(), *LOCK_PATH)
    time.sleep(POLL_INTERVAL_S)
    return _read_holder(lock.store).get("token") == lock.token


def _read_holder(store: Store) -> dict[str, str]:
    """The content of the lock file; empty if there is none."""
    with suppress(StoreError, ValueError):
        return dict(json.loads(store.read(*LOCK_PATH)))
    return {}
