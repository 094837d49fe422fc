"""When an image went through the stages of the batcher: what a trace of its request shows.

It is kept only for images whose caller asks for it. Times are nanoseconds of Unix time, as traces have them. On a GPU a
step is noted when it has been queued, up to two steps before the device has done it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

# (stage, what begins it, what ends it), in the order in which an image goes through them.
STAGES = (
    ("queue", "submitted", "taken"),
    ("encode prompt", "taken", "ready"),
    ("wait for a batch", "ready", "started"),
    ("denoise", "started", "denoised"),
    ("wait for decoding", "denoised", "decoding"),
    ("decode", "decoding", "decoded"),
    ("encode PNG", "decoded", "drawn"),
)
MAX_STEPS = 16  # of an image with more steps, about as many are kept


@dataclass
class ImageTimeline:
    """The moments of one image. Each is written by one thread, and read once the image has ended."""

    marks: dict[str, int] = field(default_factory=lambda: {"submitted": time.time_ns()})
    steps: list[tuple[int, int, int]] = field(default_factory=list)  # (time, steps done, images of the forward pass)

    def mark(self, name: str) -> None:
        """Note that a stage begins now; of several times the first counts."""
        self.marks.setdefault(name, time.time_ns())

    def add_step(self, done: int, total: int, num_images: int) -> None:
        """Note a forward pass, if it is among those that are kept: evenly spaced ones, and the last."""
        if done == total or done % -(-total // MAX_STEPS) == 0:
            self.steps.append((time.time_ns(), done, num_images))
