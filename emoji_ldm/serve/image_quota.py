"""Quotas: how many images an owner may generate per minute, counted in the store.

The minutes are those of the clock, so that everybody agrees when a quota is full again and a refusal can name the time.
The count is a small file per owner (`shared_file`): it outlives the service, and all of its processes share it. A
process takes images from it in blocks, so that most requests, and all refusals within a minute, ask nobody.

A bulk job may be larger than a minute's quota. It is admitted when nothing of the minute is used, and its excess is a
debt: every further minute pays off one quota, and until then nothing else is admitted.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from emoji_ldm.errors import StoreError
from emoji_ldm.serve.shared_file import change_file, read_file

LOG = logging.getLogger("emoji_ldm.serve")
Update = Callable[["Usage"], "Usage | None"]  # None changes nothing
WINDOW_S = 60
# Of the quota, taken from the store at once: what a process that dies may have taken and not used.
BLOCK_SHARE = 0.1


@dataclass(frozen=True)
class Usage:
    """The stored count of one owner; the field names are those of the file."""

    window: int = 0  # minute of Unix time
    used: int = 0  # images that were charged in it, debts of earlier minutes included
    last_used: float = 0.0  # of the counts of single keys, which are stored under their hash: Unix time
    writer: str = ""  # differs for every write, so that a writer recognises its own

    def at(self, window: int, quota: int) -> Usage:
        """The count as of a later minute: each one pays off a quota."""
        used = max(0, self.used - quota * max(0, window - self.window))
        return Usage(max(window, self.window), used, self.last_used)


class QuotaStore:
    """The counts of all owners: files below a folder of the store, or of this process alone (`uri` is None)."""

    def __init__(self, uri: str | None = None) -> None:
        """Use the folder at `uri`."""
        self.uri = uri
        self._local: dict[str, Usage] = {}

    def read(self, owner: str) -> Usage:
        """Return the count of an owner; raises StoreError."""
        return self._parse(read_file(self._path(owner))) if self.uri else self._local.get(owner, Usage())

    def change(self, owner: str, update: Update) -> None:
        """Replace a count by `update(count)`, atomically; raises StoreError."""
        if not self.uri:
            self._local[owner] = update(self._local.get(owner, Usage())) or self._local.get(owner, Usage())
            return
        change_file(self._path(owner), lambda data: self._format(update(self._parse(data))))

    def _path(self, owner: str) -> str:
        # Names may contain an @, and S3 keys and folders of all systems take hexadecimal digits.
        return f"{self.uri}/{owner.encode().hex()}.json"

    def _parse(self, data: bytes | None) -> Usage:
        return Usage(**json.loads(data)) if data else Usage()

    def _format(self, usage: Usage | None) -> bytes | None:
        return None if usage is None else json.dumps({**asdict(usage), "writer": uuid.uuid4().hex}).encode()


@dataclass
class ImageQuota:
    """The quota of one owner in this process; thread-safe."""

    owner: str
    images_per_minute: int
    store: QuotaStore = field(default_factory=QuotaStore)
    _window: int = 0  # in which the block was taken
    _block: int = 0  # images that are charged in the store and not used yet
    _full_until: float = 0.0  # Unix time; until then a charge of `_refused` images or more is refused without asking
    _refused: int = 0
    _offline: QuotaStore = field(default_factory=QuotaStore)  # counts while the store cannot be reached
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, images: int) -> float | None:
        """Charge without asking the store: 0 if done, the seconds to wait if refused, None if it must be asked."""
        # Called in the event loop, which must not wait for a thread that waits for the store.
        if not self._lock.acquire(blocking=False):
            return None
        try:
            now = time.time()
            if self._window == now // WINDOW_S and self._block >= images:
                self._block -= images
                return 0.0
            return self._full_until - now if now < self._full_until and images >= self._refused else None
        finally:
            self._lock.release()

    def charge(self, images: int) -> float:
        """Charge images and return 0, or nothing and return the seconds until they can be; may ask the store."""
        if (known := self.take(images)) is not None:
            return known
        with self._lock:
            now = time.time()
            window = int(now // WINDOW_S)
            kept = self._block if self._window == window else 0
            taken = 0

            def update(usage: Usage) -> Usage | None:
                nonlocal taken
                usage = usage.at(window, self.images_per_minute)
                room = self.images_per_minute - usage.used
                need = images - kept
                # More than the quota is admitted as a debt, if nothing is used.
                if min(need, self.images_per_minute) > room:
                    self._full_until = WINDOW_S * (window + math.ceil(
                        (min(need, self.images_per_minute) - room) / self.images_per_minute))  # fmt: skip
                    taken = 0
                    return None
                taken = max(need, min(room, kept + int(BLOCK_SHARE * self.images_per_minute)))
                return Usage(window, usage.used + taken)

            try:
                self.store.change(self.owner, update)
            except StoreError as error:
                # Images do not need the store: they go on, within a quota of this process alone.
                LOG.error("the quota of %s is counted in this process for now: %s", self.owner, error)
                self._offline.change(self.owner, update)
            if not taken:
                self._refused = images
                return self._full_until - now
            self._window, self._block = window, kept + taken - images
            return 0.0

    def left(self) -> int:
        """Return how many images may be charged in this minute; raises StoreError."""
        window = int(time.time() // WINDOW_S)
        used = self.store.read(self.owner).at(window, self.images_per_minute).used
        return max(0, self.images_per_minute - used) + (self._block if self._window == window else 0)

    def refund(self, images: int, *, of_job: bool = False) -> None:
        """Return the charge for images that were not generated; raises StoreError.

        Args:
            images: How many.
            of_job: Whether a job was charged, whose debt may reach over many minutes. Images of a request go back to
                the block, if it is still the same minute; else that minute has paid for them already.
        """
        with self._lock:
            window = int(time.time() // WINDOW_S)
            self._full_until = 0.0
            if not of_job:
                self._block += images if self._window == window else 0
                return
            self.store.change(self.owner, lambda usage: _refunded(usage.at(window, self.images_per_minute), images))


def _refunded(usage: Usage, images: int) -> Usage:
    return Usage(usage.window, max(0, usage.used - images), usage.last_used)
