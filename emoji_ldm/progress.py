"""Progress of long work on standard error: a bar with rate and ETA on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

# Log collectors store and bill every line, so plain lines come at this interval at most.
LINE_INTERVAL_S = 5.0

# Standard output belongs to results, such as the JSON of `--json`, which other programs read.
console = Console(stderr=True, highlight=False)


class ProgressTracker:
    """Counts finished items of one piece of work and shows them."""

    def __init__(self, name: str, total: int, unit: str, bar: Progress | None) -> None:
        """Start at zero; `bar` is None where no terminal can show one."""
        self.name, self.total, self.unit, self.done = name, total, unit, 0
        self._bar = bar
        self._task = bar.add_task(name, total=total, note="", eta="-") if bar else None
        self.resume_at(0)

    def resume_at(self, done: int) -> None:
        """Continue from `done` items of an earlier run: they count as done, but not towards the rate."""
        # The ETA comes from the rate of this run. Items of an earlier run took no time here and would make it look far
        # too fast.
        self.done = self._first = done
        self._began = self._printed = time.monotonic()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done)

    def set_total(self, total: int) -> None:
        """Change how many items there are in all, where that becomes known by and by."""
        self.total = total
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, total=total)

    def advance(self, count: int = 1, note: str = "", rate: float = 0.0) -> None:
        """Count `count` more items.

        Args:
            count: Items finished since the last call; negative where lost work is done again, 0 to renew the note.
            note: A short text beside the count, such as the loss.
            rate: Items per second, for the ETA, where the caller knows the current rate better than the mean since
                the start; the note then has to say it. 0 computes and shows the mean.
        """
        self.done += count
        elapsed_s = time.monotonic() - self._began
        mean = "" if rate else _rate(self.done - self._first, elapsed_s, self.unit)
        rate = rate or (self.done - self._first) / max(elapsed_s, 1e-6)
        # Before anything is done, nothing is known about the rate: an ETA of years would be a riddle.
        eta = format_duration(max(self.total - self.done, 0) / rate) if rate > 0 else "-"
        text = ", ".join(filter(None, (mean, note)))
        # rich redraws the bar at its own pace; plain lines are limited here.
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.done, note=text, eta=eta)
        elif time.monotonic() - self._printed >= LINE_INTERVAL_S or self.done >= self.total:
            self._print_line(text, eta)

    def _print_line(self, text: str, eta: str) -> None:
        self._printed = time.monotonic()
        line = f"{self.name}: {self.done:,}/{self.total:,} {self.unit}, {text}"
        print_status(line if self.done >= self.total else f"{line}, ETA {eta}")


def format_duration(seconds: float) -> str:
    """A duration as 12 s, 3:05 (minutes), 2:03:05 (hours) or 3 d 04:05."""
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
    # In a log or a pipe, a bar would only leave control characters, so those get plain lines.
    if not sys.stderr.isatty():
        yield ProgressTracker(name, total, unit, None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn("ETA {task.fields[eta]}"), TextColumn("{task.fields[note]}"))  # fmt: skip
    # Lines printed to the same console while the bar is shown appear above it instead of tearing it apart.
    with Progress(*columns, console=console) as bar:
        yield ProgressTracker(name, total, unit, bar)


def print_status(text: str) -> None:
    """Print one line about the work on standard error."""
    # Texts hold file names and prompts: "[tag]" in them is no rich markup, and a wrapped line cannot be searched.
    console.print(text, markup=False, soft_wrap=True)


def print_summary(title: str, values: Mapping[str, object], next_command: str = "") -> None:
    """Print what a stage did as a short table, and the command to type next."""
    width = max((len(name) for name in values), default=0)
    console.print(f"\n[bold]{title}[/bold]")
    for name, value in values.items():
        print_status(f"  {name:<{width}}  {value}")
    if next_command:
        print_status(f"next: {next_command}\n")
