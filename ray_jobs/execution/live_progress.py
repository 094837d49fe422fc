"""Progress of single URLs: workers report to an actor while a shard is under way, and the driver shows the sum.

A shard is committed as a whole, after a minute perhaps, and nothing would move until then. What workers report is for
the eye only: the counts of a shard are replaced by those of its commit, and a shard that is done again after a crash
replaces what its first attempt reported.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

from emoji_ldm.progress import ProgressTracker

Counts = dict[str, int]
REPORT_INTERVAL_S = 0.5  # of each worker, and of the driver
DONE = "done"  # among the counts of a shard: how many of its items are finished


class ProgressBoard:
    """The actor: what was last reported of each shard under way."""

    def __init__(self) -> None:
        self.shards: dict[str, Counts] = {}

    def report(self, shard: str, counts: Counts) -> None:
        """Replace the counts of a shard."""
        self.shards[shard] = counts

    def under_way(self, finished: list[str]) -> dict[str, Counts]:
        """Return the counts of all shards, after removing those that are finished."""
        for shard in finished:
            self.shards.pop(shard, None)
        return self.shards


def start_board() -> Any:
    """Start the actor; Ray must be connected."""
    return ray.remote(ProgressBoard).options(num_cpus=0).remote()


class ShardReporter:
    """A worker's side: counts the items of its current shard and reports them now and then."""

    def __init__(self, board: Any) -> None:
        """Report to this actor; to none without one."""
        self.board, self.shard, self.counts, self._sent_at = board, "", Counter[str](), 0.0

    def begin(self, shard: str) -> None:
        """Start to count a shard from zero; `shard` is any text that tells it from the others."""
        self.shard, self.counts = shard, Counter()

    def add(self, **counts: int) -> None:
        """Count one more item as done, with these counts of it."""
        self.counts.update({DONE: 1, **counts})
        if self.board is not None and time.monotonic() - self._sent_at >= REPORT_INTERVAL_S:
            self._sent_at = time.monotonic()
            # Not waited for: a report that is lost or late changes nothing but the display.
            self.board.report.remote(self.shard, dict(self.counts))


class LiveProgress:
    """The driver's side: adds what is committed and what is under way, and shows it."""

    def __init__(self, tracker: ProgressTracker, former: Mapping[str, int], note: Callable[[Counts], str]) -> None:
        """Continue from the counts of an earlier run.

        Args:
            tracker: Shows it; its total is the caller's.
            former: Counts of what was done before, `DONE` among them.
            note: Turns the summed counts into a short text.
        """
        self.tracker, self.note = tracker, note
        self.board = start_board()
        self._committed, self._finished, self._told = Counter(former), set[str](), set[str]()
        self._lock = threading.Lock()
        tracker.resume_at(former.get(DONE, 0))

    def commit(self, shard: str, counts: Mapping[str, int]) -> None:
        """Replace what was reported of a shard by what was committed."""
        with self._lock:
            self._committed.update(counts)
            self._finished.add(shard)
            self._show({})

    @contextmanager
    def following(self) -> Any:
        """Show reports of workers while the block runs."""
        stop = threading.Event()
        thread = threading.Thread(target=self._follow, args=(stop,), name="live-progress", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join()

    def _follow(self, stop: threading.Event) -> None:
        while not stop.wait(REPORT_INTERVAL_S):
            with self._lock:
                news = list(self._finished - self._told)
                self._told.update(news)
            try:
                reported = ray.get(self.board.under_way.remote(news))
            except RayError:
                return  # commits still move the display
            with self._lock:
                self._show({shard: counts for shard, counts in reported.items() if shard not in self._finished})

    def _show(self, under_way: Mapping[str, Counts]) -> None:
        """Show the sum; the lock is held."""
        total = Counter(self._committed)
        for counts in under_way.values():
            total.update(counts)
        # Pages lead to pages that nobody knew of when the wave was planned.
        if total[DONE] > self.tracker.total:
            self.tracker.set_total(total[DONE])
        # A pause between two reports is no news, and a finished bar is shown once.
        if total[DONE] != self.tracker.done or total[DONE] < self.tracker.total:
            self.tracker.advance(total[DONE] - self.tracker.done, self.note(total))
