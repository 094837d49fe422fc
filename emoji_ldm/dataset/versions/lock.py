"""The store's lock: a vacuum that deletes files, and a command that names old versions, exclude each other.

A vacuum reads which files are referenced and then deletes the others, which may take hours. A tag, branch or restore
that came in between could reference files that are about to go, so each of them holds this lock. It is a lease: the
object refs/lease.json, created only if it is absent, says who holds the lock and until when, and the holder renews it
during long work. If a holder dies, others take the lock over once the lease has run out, `LOCK_DURATION` at most. The
clocks of the machines are assumed to agree within a minute or so.

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
# A short lease ends a dead holder's claim soon; a long one leaves a slow holder time to renew. Five minutes are far
# more than any single request to a store takes, after its retries.
LOCK_DURATION = timedelta(minutes=5)
# Tags and branches hold the lock for seconds, so waiting for them pays. A vacuum may take hours, and the user is better
# served by an error that says so.
MAX_WAIT_S = 20.0
POLL_INTERVAL_S = 0.2


@dataclass
class StoreLock:
    """A held lock: the right to delete old files, or to create references to them. Call `renew` during long work."""

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
        # After this call at least half of the lease is left. That is why a holder may act for a while between two
        # renewals, such as delete a file, without asking again.
        if left < LOCK_DURATION / 2:
            # Only a holder whose lease has not run out may extend it. Once it has, another command may have taken the
            # lock and relied on it, even if that one has released it again.
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
        # The lock may have been lost and taken by another command, whose lease must not be deleted.
        if _read_holder(store).get("token") == lock.token:
            store.remove(*LOCK_PATH)


def _try_acquire(lock: StoreLock) -> bool:
    lock.until = datetime.now(UTC) + LOCK_DURATION
    if lock.store.write_if_absent(lock.to_bytes(), *LOCK_PATH):
        return True
    holder = _read_holder(lock.store)
    if not holder:
        # It was released just now; the next attempt creates it.
        return False
    if datetime.fromisoformat(holder["until"]) > datetime.now(UTC):
        # A conditional PUT whose response was lost may have created this very lease; the token tells.
        return holder["token"] == lock.token
    # The lease ran out, so its holder is presumed dead. Several commands may find that at the same time and overwrite
    # the lease one after the other. Each of them waits until the writes of the others have arrived, and reads the lease
    # again: the last writer holds the lock. This assumes that no writer stalls for longer than the pause between its
    # own look at the old lease and its write.
    lock.store.write(lock.to_bytes(), *LOCK_PATH)
    time.sleep(POLL_INTERVAL_S)
    return _read_holder(lock.store).get("token") == lock.token


def _read_holder(store: Store) -> dict[str, str]:
    """The content of the lock file; empty if there is none."""
    # A lease that was released between two requests cannot be read, and that is no error: callers treat "nobody" like
    # "somebody else", so a failed read never grants the lock.
    with suppress(StoreError, ValueError):
        return dict(json.loads(store.read(*LOCK_PATH)))
    return {}
