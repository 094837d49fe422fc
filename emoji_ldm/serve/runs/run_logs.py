"""The log of a training as curves: read line by line, and thinned while it is read.

A log grows by a line every few steps and is written as a whole each time, so whoever watches a training reads it again
and again. What is kept of it is bounded, and it is parsed only if the file has changed.
"""

from __future__ import annotations

import json
import math
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from emoji_ldm.store import Store
from emoji_ldm.train.metrics.training_metrics import LOG_FILE

CURVES = ("loss", "validation_loss", "validation_loss_ema", "grad_norm", "lr", "images_per_s", "peak_memory_mb")
FIGURES = ("loss", "lr", "images_per_s", "step_s", "data_wait", "communication", "saving", "mfu", "skipped", "time_s")
MAX_POINTS = 600  # of a curve: more than a chart has pixels
MAX_NOTES = 20
MAX_LINE_BYTES = 2**20
CHUNK_BYTES = 2**20
MAX_KEPT = 16  # logs in memory

Point = tuple[float, float]


@dataclass
class ThinnedCurve:
    """(step, value) of at most `MAX_POINTS` lines, evenly chosen; the newest one is always among them."""

    points: list[Point] = field(default_factory=list)
    every: int = 1  # of so many lines one is kept
    newest: Point | None = None
    num_lines: int = 0

    def add(self, step: float, value: float) -> None:
        """Take the value of the next line."""
        self.newest = (step, value)
        if self.num_lines % self.every == 0:
            self.points.append(self.newest)
        self.num_lines += 1
        if len(self.points) == MAX_POINTS:
            self.points, self.every = self.points[::2], 2 * self.every

    def whole(self) -> list[Point]:
        """Return the points, the newest one last."""
        ends = [self.newest] if self.newest and self.newest not in self.points[-1:] else []
        return [*self.points, *ends]


@dataclass(frozen=True)
class LogSummary:
    """What is shown of a log."""

    curves: dict[str, list[Point]]  # those with at least one point
    figures: dict[str, float]  # of the newest line
    memory_mb: list[float]  # of each rank, of the newest line
    step: int
    notes: list[str]  # the last ones
    updated_at: float  # Unix time


class RunLogs:
    """Reads logs of one store, and keeps those that were asked for last."""

    def __init__(self, store: Store) -> None:
        """Read a store."""
        self.store = store
        self._kept = OrderedDict[tuple[str, str], tuple[tuple[int, int], LogSummary]]()
        self._lock = threading.Lock()

    def updated_at(self, run: str, section: str) -> float | None:
        """Return when a log was written last, in Unix time; None if there is none."""
        info = self._info(run, section)
        return info and info[0] / 1e9

    def read(self, run: str, section: str) -> LogSummary | None:
        """Return the log of a training; None if there is none. Raises StoreError."""
        info, key = self._info(run, section), (run, section)
        if info is None:
            return None
        with self._lock:
            kept = self._kept.get(key)
        if kept is None or kept[0] != info:
            kept = info, _summary(self._lines(run, section), info[0] / 1e9)
        with self._lock:
            self._kept[key] = kept
            self._kept.move_to_end(key)
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return kept[1]

    def _info(self, run: str, section: str) -> tuple[int, int] | None:
        """Return the time (ns) and the size of a log."""
        with self.store.io_errors(f"look at the log of {run}"):
            found = self.store.filesystem.get_file_info(self.store.path("runs", run, section, LOG_FILE))
        return (found.mtime_ns or 0, found.size or 0) if found.is_file else None

    def _lines(self, run: str, section: str) -> Iterator[dict[str, Any]]:
        """Yield the lines that are whole; the last one may be one that is being written."""
        path, rest = self.store.path("runs", run, section, LOG_FILE), b""
        with (
            self.store.io_errors(f"read the log of {run}"),
            self.store.filesystem.open_input_stream(path, compression=None) as stream,
        ):
            while chunk := stream.read(CHUNK_BYTES):
                *whole, rest = (rest + chunk).split(b"\n")
                yield from filter(None, map(_parsed, whole))
                if len(rest) > MAX_LINE_BYTES:
                    return  # no log of a training
        if line := _parsed(rest):
            yield line


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and _number(found.get("step")) is not None else None


def _summary(lines: Iterator[dict[str, Any]], updated_at: float) -> LogSummary:
    curves, notes, last = {name: ThinnedCurve() for name in CURVES}, deque[str](maxlen=MAX_NOTES), dict[str, Any]()
    for line in lines:
        last, step = line, float(line["step"])
        memory = _memory(line)
        for name, curve in curves.items():
            value = max(memory, default=None) if name == "peak_memory_mb" else _number(line.get(name))
            if value is not None:
                curve.add(step, value)
        bad = line.get("bad")
        notes.extend(f"step {name}: skipped, its gradient norm was {norm}"
                     for name, norm in (bad.items() if isinstance(bad, dict) else ()))  # fmt: skip
        notes.extend(f"step {line['step']}: {note}" for note in line.get("notes", ()))
    figures = {name: value for name in FIGURES if (value := _number(last.get(name))) is not None}
    whole = {name: points for name, curve in curves.items() if (points := curve.whole())}
    return LogSummary(whole, figures, _memory(last), int(last.get("step", 0)), list(notes), updated_at)


def _memory(line: dict[str, Any]) -> list[float]:
    values = line.get("memory_mb", [])
    return [value for each in values if (value := _number(each)) is not None] if isinstance(values, list) else []


def _number(value: object) -> float | None:
    """Return a finite number; JSON of Python's holds NaN as well, which browsers cannot read."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and abs(value) < math.inf else None  # type: ignore[arg-type, return-value]
