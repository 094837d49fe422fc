"""The log of a training: `losses.jsonl` in the store for the report, trackers beside it.

The lines are part of each checkpoint. A run that resumes takes them from there, so the log
has neither a gap nor a double line, whatever was written after the checkpoint.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from queue import SimpleQueue
from typing import Any

from emoji_ldm.store import Store
from emoji_ldm.train import owner
from emoji_ldm.train.feed import Feed
from emoji_ldm.train.plan import Place, Plan
from emoji_ldm.train.trackers import Log, builders

NAME = "losses.jsonl"
FLUSH_EVERY_S = 2.0

Line = dict[str, Any]
"""step, loss, grad_norm (both without skipped steps), skipped (so far), lr, images_per_s, step_s, data_wait (share),
memory_mb (per rank), time_s; where it applies validation_loss, validation_loss_ema, bad {step: norm}, limit,
guard (its memory), notes."""


def parse(text: str) -> list[Line]:
    """The lines of a log; a last one that is still being written is left out."""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def read(store: Store, run: str, section: str = "train") -> list[Line]:
    """The log of a run so far, empty if there is none."""
    if not store.exists("runs", run, section, NAME):
        return []
    return parse(store.read("runs", run, section, NAME).decode())


class Journal:
    """The writer, on rank 0. Threads bring lines to the store and to trackers: training waits for none of them."""

    def __init__(self, place: Place, plan: Plan, lines: Iterable[Line]) -> None:
        """Go on after `lines`, those of the checkpoint."""
        self.place, self.plan, self.lines = place, plan, list(lines)
        self.spent_s = self.lines[-1]["time_s"] if self.lines else 0.0
        self._flushed, self._closed = 0.0, False
        self._notes: SimpleQueue[str] = SimpleQueue()
        self._log = Feed("the run's log", lambda: Log(place, plan, NAME), self._owns, patient=True)
        trackers = builders(place, plan, tuple(self.lines)).items()
        self._feeds = [self._log, *(Feed(name, build, self._owns) for name, build in trackers)]

    def log(self, line: Line) -> None:
        """Add one line; it reaches the store within a few lines' time."""
        notes = [*line.get("notes", []), *self._taken()]
        self.lines.append(line | {"notes": notes} if notes else line)
        if time.monotonic() - self._flushed > FLUSH_EVERY_S:
            self.flush()

    def show(self, png: bytes, step: int, kind: str = "samples") -> None:
        """Keep a grid of pictures: `samples`, or `pairs` of images held out and what is drawn for their captions."""
        for feed in self._feeds:
            feed.picture(png, step, kind)

    def note(self, text: str) -> None:
        """Tell people something with the next line, or the last one; any thread may."""
        self._notes.put(text)

    def text(self) -> str:
        """The log as JSON lines."""
        return "".join(json.dumps(line) + "\n" for line in self.lines)

    def flush(self) -> None:
        """Start to bring everything to where it belongs."""
        self._flushed = time.monotonic()
        for feed in self._feeds:
            feed.send(tuple(self.lines))

    def close(self, *, done: bool = True) -> None:
        """Bring the last lines and let go, once; a tracker that does not answer is left behind after a while."""
        if self._closed:
            return
        self._closed = True
        for feed in self._feeds[1:]:
            feed.send(tuple(self.lines), last=True)
            feed.close(done=done)
        notes = self._taken()
        if notes and self.lines:
            self.lines[-1] = self.lines[-1] | {"notes": [*self.lines[-1].get("notes", []), *notes]}
        self._log.send(tuple(self.lines), last=True)
        self._log.close(done=done)

    def _taken(self) -> list[str]:
        own = [self._notes.get() for _ in range(self._notes.qsize())]
        return [*own, *(note for feed in self._feeds for note in feed.notes())]

    def _owns(self) -> bool:
        place = self.place
        return owner.owns(place.store, place.config.run, self.plan.section, place.owner)
