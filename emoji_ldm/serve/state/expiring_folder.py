"""Files of a store that expire: they lie in one folder per period, and a folder is deleted as a whole.

    <store>/<folder>/<number of the period in which its files expire>/<name>

So no list of files has to be kept or read. Whoever writes deletes what has expired, once in a period.
"""

from __future__ import annotations

import logging
import time

from emoji_ldm.errors import StoreError
from emoji_ldm.store import Store

LOG = logging.getLogger("emoji_ldm.serve")


class ExpiringFolder:
    """Files below one folder of a store, which may be asked for until a period after they expire; thread-safe."""

    def __init__(self, store: Store, folder: str, period_s: int) -> None:
        """Use a folder whose files are deleted by the period of `period_s` seconds."""
        self.store, self.folder, self.period_s = store, folder, period_s
        self._cleaned = 0  # the period in which expired files were deleted last

    def write(self, data: bytes, name: str, expires_at: float) -> None:
        """Write or replace a file; raises StoreError."""
        self._clean()
        self.store.write(data, *self._path(name, expires_at))

    def write_if_absent(self, data: bytes, name: str, expires_at: float) -> bool:
        """Write a file unless it exists; returns whether it was written. Raises StoreError."""
        self._clean()
        return self.store.write_if_absent(data, *self._path(name, expires_at))

    def read(self, name: str, expires_at: float) -> bytes | None:
        """Return a file; None if there is none. Raises StoreError."""
        try:
            return self.store.read(*self._path(name, expires_at))
        except StoreError:
            if self.store.exists(*self._path(name, expires_at)):
                raise
            return None

    def remove(self, name: str, expires_at: float) -> None:
        """Delete a file; raises StoreError."""
        self.store.remove(*self._path(name, expires_at))

    def _path(self, name: str, expires_at: float) -> tuple[str, ...]:
        return *self.folder.split("/"), str(int(expires_at // self.period_s)), name

    def _clean(self) -> None:
        """Delete the folders of periods that have ended; several processes may do so at once."""
        now = int(time.time() // self.period_s)
        if now == self._cleaned:
            return
        self._cleaned = now
        try:
            for name in self.store.list(*self.folder.split("/")):
                if name.isdecimal() and int(name) < now:
                    self.store.delete(*self.folder.split("/"), name)
        except StoreError as error:
            # The next period's writer tries again; a file that is too old is refused by whoever reads it.
            LOG.warning("expired files in %s cannot be deleted: %s", self.folder, error)
