"""Progress of long work: a bar with rate and ETA on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

LINE_INTERVAL_S = 5.0

console = Console(stderr=True, highlight=False)


class ProgressTracker:
    """Counts finished items of one piece of work."""

    def __init__(self, name: str, total: int, unit: str, bar: Progress | None) -> None:
        """Start at zero; `bar` is None where no terminal shows one."""
        self.name, self.total, self.unit, self.done = name, total, unit, 0
        self._bar = bar
        self._task = bar.add_task(name, total=total, note="", eta="-") if bar else None
        self.begin(0)

    def begin(self, done: int) -> None:
        """Go on from `done` items, which an earlier run finished: they count as done, but not into the rate."""
        self.done = self._first = done
        self._began = self._printed = time.monotonic()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done)

    def advance(self, count: int = 1, note: str = "", rate: float = 0.0) -> None:
        """Count `count` more items; `note` is a short text such as a loss.

        Whoever knows the present `rate`, in items per second, better than a count since the start gives it, and
        tells it in the note in words of its own.
        """
        self.done += count
        own = "" if rate else _rate(self.done - self._first, time.monotonic() - self._began, self.unit)
        rate = rate or (self.done - self._first) / max(time.monotonic() - self._began, 1e-6)
        left_s = max(self.total - self.done, 0) / max(rate, 1e-6)
        text = ", ".join(filter(None, (own, note)))
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.done, note=text, eta=format_duration(left_s))
        elif time.monotonic() - self._printed >= LINE_INTERVAL_S or self.done >= self.total:
            self._printed = time.monotonic()
            line = f"{self.name}: {self.done:,}/{self.total:,} {self.unit}, {text}"
            console.print(
                line if self.done >= self.total else f"{line}, ETA {format_duration(left_s)}",
                markup=False,
                soft_wrap=True,
            )


def format_duration(seconds: float) -> str:
    """A duration for people: 12 s, 3:05 (minutes), 2:03:05 (hours), 3 d 04:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24:02}:{minutes:02}"
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}" if minutes else f"{rest} s"


def _rate(count: int, seconds: float, unit: str) -> str:
    return f"{count / max(seconds, 1e-6):.1f} {unit}/s"


@contextmanager
def track(name: str, total: int, unit: str) -> Iterator[ProgressTracker]:
    """Show the progress of `total` items of `unit` while the block runs."""
    if not sys.stderr.isatty():
        yield ProgressTracker(name, total, unit, None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn("ETA {task.fields[eta]}"), TextColumn("{task.fields[note]}"))  # fmt: skip
    with Progress(*columns, console=console) as bar:
        yield ProgressTracker(name, total, unit, bar)


def print_status(text: str) -> None:
    """Print one line about the work on standard error."""
    console.print(text, markup=False, soft_wrap=True)


def print_summary(title: str, values: Mapping[str, object], next_command: str = "") -> None:
    """Print what a stage did as a short table, and the command to type next."""
    width = max((len(name) for name in values), default=0)
    console.print(f"\n[bold]{title}[/bold]")
    for name, value in values.items():
        console.print(f"  {name:<{width}}  {value}", markup=False, soft_wrap=True)
    if next_command:
        console.print(f"next: {next_command}\n", markup=False, soft_wrap=True)
