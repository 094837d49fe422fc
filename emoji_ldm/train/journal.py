"""The log of a training: `losses.jsonl` in the store for the report, TensorBoard beside it.

The lines are part of each checkpoint. A run that resumes takes them from there, so the log
has neither a gap nor a double line, whatever was written after the checkpoint.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

from emoji_ldm.store import Store
from emoji_ldm.train.plan import Place, Plan

NAME = "losses.jsonl"
WRITE_EVERY_S = 2.0  # an object store has no append: the whole file is written again

Line = dict[str, float]


def parse(text: str) -> list[Line]:
    """The lines of a log; a last one that is still being written is left out."""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def read(store: Store, run: str, section: str = "train") -> list[Line]:
    """The log of a run so far, empty if there is none: step, loss, lr, grad_norm, images_per_s, time_s."""
    if not store.exists("runs", run, section, NAME):
        return []
    return parse(store.read("runs", run, section, NAME).decode())


class Journal:
    """The writer, on rank 0."""

    def __init__(self, place: Place, plan: Plan, lines: Iterable[Line]) -> None:
        """Go on after `lines`, those of the checkpoint."""
        from torch.utils.tensorboard import SummaryWriter

        self.place, self.plan, self.lines = place, plan, list(lines)
        self.spent_s = self.lines[-1]["time_s"] if self.lines else 0.0
        self._parts = ("runs", place.config.run, plan.section)
        self._written = 0.0
        after = int(self.lines[-1]["step"]) + 1 if self.lines else None
        self._board: Any = SummaryWriter(str(self._folder()), purge_step=after)

    def log(self, line: Line) -> None:
        """Add one line; it reaches the store within a few lines' time."""
        self.lines.append(line)
        for name in ("loss", "lr", "grad_norm", "images_per_s"):
            self._board.add_scalar(f"{self.plan.section}/{name}", line[name], int(line["step"]))
        if time.monotonic() - self._written > WRITE_EVERY_S:
            self.flush()

    def show(self, png: bytes, step: int) -> None:
        """Keep a sample grid."""
        import numpy as np
        from PIL import Image

        self.place.store.write(png, *self._parts, "samples", f"step-{step:08d}.png")
        with Image.open(BytesIO(png)) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._board.add_image(f"{self.plan.section}/samples", pixels, step, dataformats="HWC")

    def text(self) -> str:
        """The log as JSON lines."""
        return "".join(json.dumps(line) + "\n" for line in self.lines)

    def flush(self) -> None:
        """Bring everything to the store."""
        self.place.store.write(self.text().encode(), *self._parts, NAME)
        self._board.flush()
        if self.place.store.is_s3:
            self.place.store.upload(self._folder(), *self._parts[:2], "tensorboard")
        self._written = time.monotonic()

    def close(self) -> None:
        """Flush, and let go of the files."""
        self.flush()
        self._board.close()

    def _folder(self) -> Path:
        """Where TensorBoard writes: in a local store itself, else in a scratch folder that is copied."""
        root = self.place.scratch if self.place.store.is_s3 else Path(self.place.store.root)
        return root / "runs" / self.place.config.run / "tensorboard"
