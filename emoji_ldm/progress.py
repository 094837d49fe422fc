"""Progress of long work: a bar with rate and ETA on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY_S = 5.0

console = Console(stderr=True, highlight=False)


class Tracker:
    """Counts finished items of one piece of work."""

    def __init__(self, name: str, total: int, unit: str, bar: Progress | None) -> None:
        """Start at zero; `bar` is None where no terminal shows one."""
        self.name, self.total, self.unit, self.done = name, total, unit, 0
        self._bar = bar
        self._task = bar.add_task(name, total=total, note="") if bar else None
        self._began = self._printed = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more items; `note` is a short text such as a loss."""
        self.done += count
        rate = self.done / max(time.monotonic() - self._began, 1e-6)
        text = f"{rate:.1f} {self.unit}/s {note}".rstrip()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.done, note=text)
        elif time.monotonic() - self._printed >= LINE_EVERY_S or self.done >= self.total:
            self._printed = time.monotonic()
            eta = max(self.total - self.done, 0) / max(rate, 1e-6)
            console.print(f"{self.name}: {self.done}/{self.total} {self.unit}, {text}, ETA {eta:.0f} s")


@contextmanager
def track(name: str, total: int, unit: str) -> Iterator[Tracker]:
    """Show the progress of `total` items of `unit` while the block runs."""
    if not sys.stderr.isatty():
        yield Tracker(name, total, unit, None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn("ETA"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))  # fmt: skip
    with Progress(*columns, console=console) as bar:
        yield Tracker(name, total, unit, bar)


def say(text: str) -> None:
    """Print one line about the work on standard error."""
    console.print(text, markup=False, soft_wrap=True)


def summary(title: str, values: Mapping[str, object], next_command: str = "") -> None:
    """Print what a stage did as a short table, and the command to type next."""
    width = max((len(name) for name in values), default=0)
    console.print(f"\n[bold]{title}[/bold]")
    for name, value in values.items():
        console.print(f"  {name:<{width}}  {value}", markup=False, soft_wrap=True)
    if next_command:
        console.print(f"next: {next_command}\n", markup=False, soft_wrap=True)
