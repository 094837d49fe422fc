"""What the owners of keys have used, by day (UTC): requests, and images that were generated for them.

    <store>/keys/usage/<owner in hexadecimal>.days.json   {"<date>": {"images", "bulk_images", "requests"}}

Each process counts in memory and adds what it counted to the file now and then, so that no request waits for it; a
process that is killed loses the counts of its last minute. This is a record; what a quota allows is counted elsewhere
(`image_quota`), at once.
"""

from __future__ import annotations

import json
import threading
from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial

from emoji_ldm.serve.shared_file import change_file, read_file

MAX_DAYS = 400  # older ones are dropped
Days = Mapping[str, Mapping[str, int]]


class UsageMeter:
    """The counts of all owners; thread-safe."""

    def __init__(self, uri: str | None) -> None:
        """Keep the counts in files of a folder; None keeps them in this process alone."""
        self.uri = uri
        self._lock = threading.Lock()
        self._new: dict[str, dict[str, Counter[str]]] = {}  # not in the files yet: {owner: {date: counts}}

    def count(self, owner: str, **counts: int) -> None:
        """Add to the counts of today; negative numbers take back."""
        today = f"{datetime.now(UTC):%Y-%m-%d}"
        with self._lock:
            self._new.setdefault(owner, defaultdict(Counter))[today].update(counts)

    def days(self, owner: str) -> Days:
        """Return the counts of an owner by date, the newest first; raises StoreError."""
        with self._lock:
            new = {date: Counter(counts) for date, counts in self._new.get(owner, {}).items()}
        stored = json.loads(read_file(self._path(owner)) or b"{}") if self.uri else {}
        return dict(sorted(_added(stored, new).items(), reverse=True))

    def flush(self) -> None:
        """Add what was counted to the files; raises StoreError, and keeps what could not be written."""
        if not self.uri:
            return
        with self._lock:
            pending, self._new = self._new, {}
        for owner, new in list(pending.items()):
            try:
                change_file(self._path(owner), partial(_merged, new=new))
            except BaseException:
                with self._lock:
                    for left, counted in pending.items():
                        mine = self._new.setdefault(left, defaultdict(Counter))
                        for date, counts in counted.items():
                            mine[date].update(counts)
                raise
            del pending[owner]

    def _path(self, owner: str) -> str:
        return f"{self.uri}/{owner.encode().hex()}.days.json"


def _added(stored: Days, new: Mapping[str, Counter[str]]) -> dict[str, dict[str, int]]:
    days = {date: Counter(counts) for date, counts in stored.items()}
    for date, counts in new.items():
        # Not `+`, which would drop numbers below zero, and so a refund that is counted before its charge.
        days.setdefault(date, Counter()).update(counts)
    return {date: dict(days[date]) for date in sorted(days)[-MAX_DAYS:]}


def _merged(data: bytes | None, *, new: Mapping[str, Counter[str]]) -> bytes:
    return json.dumps(_added(json.loads(data or b"{}"), new), indent=1).encode()
