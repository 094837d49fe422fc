"""Notices that a node is about to be taken away, asked for rarely and by all ranks at the same step."""

from __future__ import annotations

import time

import ray.train

from emoji_ldm.train.engines.distributed import current_context

POLL_INTERVAL_S = 5.0  # a notice comes 30 s (some clouds) to 2 minutes ahead
SAVE_MARGIN_S = 20.0  # before a node goes, the last save begins
DEFAULT_DEADLINE_S = 120.0  # what Ray waits where no deadline is told


class PreemptionNotice:
    """Call it at every step; it asks Ray every `LOOK_S` or so, since to ask is a barrier over all ranks."""

    def __init__(self) -> None:
        self.left = self.pace = 1  # steps until it asks again, and between the last two times
        self.asked = time.monotonic()
        self.known: set[str] = set()  # nodes whose notice was answered
        self.deadline_s = float("inf")  # of the last save, UNIX time

    def __call__(self) -> bool:
        """Whether to save now: once at a notice, once more shortly before the node goes; alike on every rank."""
        self.left -= 1
        if self.left:
            return False
        info = ray.train.get_preemption_info()
        self.left, save = current_context().share((self._steps(), self._is_time(info)))
        self.pace = self.left
        return save

    def _is_time(self, info: ray.train.PreemptionInfo | None) -> bool:
        now = time.time()
        if info and (fresh := set(info.preempted_node_ids) - self.known):
            self.known |= fresh
            ends_s = info.deadline_ms / 1000 if info.deadline_ms else now + DEFAULT_DEADLINE_S
            self.deadline_s = min(self.deadline_s, ends_s - SAVE_MARGIN_S)
            return True
        if now >= self.deadline_s:
            self.deadline_s = float("inf")
            return True
        return False

    def _steps(self) -> int:
        """Steps until the next look, by this rank's clock; at most twice as many as last time, as steps may slow."""
        now = time.monotonic()
        step_s, self.asked = max(now - self.asked, 1e-6) / self.pace, now
        return max(1, min(2 * self.pace, int(POLL_INTERVAL_S / step_s)))
