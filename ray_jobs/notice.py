"""Notices that a node is about to be taken away, asked for rarely and by all ranks at the same step."""

from __future__ import annotations

import time

import ray.train

from emoji_ldm.train.world import current

LOOK_S = 5.0  # a notice comes 30 s (some clouds) to 2 minutes ahead


class Notice:
    """Call it at every step; it asks Ray every `LOOK_S` or so, since to ask is a barrier over all ranks."""

    def __init__(self) -> None:
        self.left = self.pace = 1  # steps until it asks again, and between the last two times
        self.asked = time.monotonic()

    def __call__(self) -> bool:
        """Whether a node of this group is being drained; the same answer on every rank."""
        self.left -= 1
        if self.left:
            return False
        leaving = ray.train.get_preemption_info() is not None
        self.pace = self.left = current().share(self._steps())
        return leaving

    def _steps(self) -> int:
        """Steps until the next look, by this rank's clock; at most twice as many as last time, as steps may slow."""
        now = time.monotonic()
        step_s, self.asked = max(now - self.asked, 1e-6) / self.pace, now
        return max(1, min(2 * self.pace, int(LOOK_S / step_s)))
