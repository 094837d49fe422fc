"""A training run that can be paused, stopped and resumed: signals, log lines and atomic checkpoints."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from infra.starter.paths import PAUSE

POLL_S = 1.0


class Run:
    """One folder with `last.pt`, `log.jsonl` and whatever the caller writes beside them."""

    def __init__(self, folder: Path, save_interval_s: float = 600) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.save_interval_s = folder, save_interval_s
        self._stopped, self._saved_at, self.paused_s = False, time.monotonic(), 0.0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def steps(self, first: int, last: int) -> Iterator[int]:
        """Step numbers from `first` to below `last`; waits while the file PAUSE exists, ends early on SIGTERM."""
        for step in range(first, last):
            self._wait()
            if self._stopped:
                return
            yield step

    @property
    def stopped(self) -> bool:
        """Whether a signal asked the run to end."""
        return self._stopped

    def due(self) -> bool:
        """Whether it is time for the next checkpoint."""
        return time.monotonic() - self._saved_at > self.save_interval_s

    def load(self) -> Any:
        """The last checkpoint, or None."""
        path = self.folder / "last.pt"
        return torch.load(path, map_location="cpu", weights_only=False) if path.exists() else None

    def save(self, state: dict[str, Any], name: str = "last.pt") -> None:
        """Write a checkpoint under another name, force it to the disk, then rename it."""
        temporary = self.folder / (name + ".tmp")
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.folder / name)
        self._saved_at = time.monotonic()

    def log(self, **figures: Any) -> None:
        """One JSON line, to the log and to the terminal."""
        rounded = {
            name: float(f"{value:.5g}") if isinstance(value, float) else value for name, value in figures.items()
        }
        line = json.dumps({"time": time.strftime("%H:%M:%S")} | rounded)
        print(line, flush=True)
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(line + "\n")

    def _stop(self, *_: Any) -> None:
        self._stopped = True

    def _wait(self) -> None:
        start = time.monotonic()
        while PAUSE.exists() and not self._stopped:
            time.sleep(POLL_S)
        self.paused_s += time.monotonic() - start


def rng_of(seed: int, step: int, stream: int = 0) -> np.random.Generator:
    """The random numbers of a step; equal on resume."""
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, 0, step]))
