"""One at a time: a vacuum that deletes, and whoever gives old files a new name (tag, branch, restore).

A vacuum reads what is referred to and then deletes for as long as it takes; a tag that came
in between could name files that go. So both hold the store's lease, refs/lease.json, put
only if it is not there. It tells who holds it and until when: a holder that died is in
nobody's way for longer than `LEASE`. Ordinary commits need none: they name new files and
those of the newest version, which a vacuum leaves alone.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from emoji_ldm.errors import DatasetError, StoreError
from emoji_ldm.store import Store

LOCK_PATH = ("refs", "lease.json")
LOCK_DURATION = timedelta(minutes=5)
MAX_WAIT_S = 20.0  # tags take far less; a vacuum may take hours
POLL_INTERVAL_S = 0.2


@dataclass
class StoreLock:
    """The right to delete old files or to name them; `keep` it during long work."""

    store: Store
    who: str
    token: str
    until: datetime

    def keep(self) -> None:
        """Make it last, at little cost however often it is called.

        Raises:
            DatasetError: It ran out, so that somebody else may hold it: stop.
        """
        left = self.until - datetime.now(UTC)
        if left < LOCK_DURATION / 2:
            if left < timedelta() or _read_holder(self.store).get("token") != self.token:
                raise DatasetError(f"{self.who} took too long and lost its turn in {self.store.uri}; run it again")
            self.until = datetime.now(UTC) + LOCK_DURATION
            self.store.write(self.to_bytes(), *LOCK_PATH)

    def to_bytes(self) -> bytes:
        """The lease as its file holds it."""
        return json.dumps({"who": self.who, "token": self.token, "until": self.until.isoformat()}).encode()


@contextmanager
def store_lock(store: Store, who: str) -> Iterator[StoreLock]:
    """Hold the store's lease within the block.

    Raises:
        DatasetError: Somebody else holds it, and does not end within 20 s.
    """
    own = StoreLock(store, who, uuid.uuid4().hex, datetime.now(UTC) + LOCK_DURATION)
    deadline = time.monotonic() + MAX_WAIT_S
    while not _try_acquire(own):
        if time.monotonic() > deadline:
            other = _read_holder(store)
            raise DatasetError(
                f"{who} has to wait for {other.get('who', 'another command')}, which is at work in {store.uri}; run it "
                f"again later (if that one died: after {other.get('until', '')[:19]} UTC)"
            )
        time.sleep(POLL_INTERVAL_S)
        own.until = datetime.now(UTC) + LOCK_DURATION
    try:
        yield own
    finally:
        if _read_holder(store).get("token") == own.token:
            store.remove(*LOCK_PATH)


def _try_acquire(own: StoreLock) -> bool:
    if own.store.write_once(own.to_bytes(), *LOCK_PATH):
        return True
    holder = _read_holder(own.store)
    if not holder:
        return False  # it ended just now, or is half written: ask again
    if datetime.fromisoformat(holder["until"]) > datetime.now(UTC):
        return holder["token"] == own.token  # a conditional PUT whose answer was lost
    own.store.write(own.to_bytes(), *LOCK_PATH)
    time.sleep(POLL_INTERVAL_S)  # of several that find it run out, the last to write has it
    return _read_holder(own.store).get("token") == own.token


def _read_holder(store: Store) -> dict[str, str]:
    with suppress(StoreError, ValueError):
        return dict(json.loads(store.read(*LOCK_PATH)))
    return {}
