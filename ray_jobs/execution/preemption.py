"""Preemption notices: a cloud announces 30 s to 2 minutes ahead that it takes a node away.

Ray Train tells a rank of the notice when it asks, but to ask is a barrier over all ranks, and all must answer alike:
the ranks save together or wait for one another for ever. So every rank asks at the same steps, and rarely. Rank 0
decides how many steps pass until the next question, from the time that steps take, and broadcasts it.
"""

from __future__ import annotations

import time

import ray.train

from emoji_ldm.train.engines.distributed import current_context

POLL_INTERVAL_S = 5.0  # well below the shortest notice
# The last save begins this long before the deadline: a checkpoint of several GB takes seconds to reach the store.
SAVE_MARGIN_S = 20.0
DEFAULT_DEADLINE_S = 120.0  # Ray's own, where a notice has none


class PreemptionNotice:
    """Whether to save now, because a node will be preempted; to be called at every step by every rank."""

    def __init__(self) -> None:
        """Ask at the first step."""
        self.steps_until_poll = self.poll_every_steps = 1
        self.polled_at = time.monotonic()
        self.handled_nodes: set[str] = set()  # their notice was answered with a save
        self.deadline_s = float("inf")  # of the last save, Unix time

    def __call__(self) -> bool:
        """True once at a notice and once more shortly before the node goes; the same on every rank."""
        self.steps_until_poll -= 1
        if self.steps_until_poll:
            return False
        # A barrier: every rank is here, since all count the same steps.
        info = ray.train.get_preemption_info()
        # The ranks' clocks and what Ray tells them may differ by a moment. Only rank 0's answer counts, so all do the
        # same.
        self.steps_until_poll, save = current_context().broadcast((self._steps_to_next_poll(), self._must_save(info)))
        self.poll_every_steps = self.steps_until_poll
        return save

    def _must_save(self, info: ray.train.PreemptionInfo | None) -> bool:
        now = time.time()
        if info and (fresh := set(info.preempted_node_ids) - self.handled_nodes):
            self.handled_nodes |= fresh
            # A notice of a second node may come with an earlier deadline, and never postpones the one that is known
            # already.
            ends_s = info.deadline_ms / 1000 if info.deadline_ms else now + DEFAULT_DEADLINE_S
            self.deadline_s = min(self.deadline_s, ends_s - SAVE_MARGIN_S)
            return True
        # The last save before the node goes: what was trained since the notice would be lost otherwise.
        if now >= self.deadline_s:
            self.deadline_s = float("inf")
            return True
        return False

    def _steps_to_next_poll(self) -> int:
        """Return the steps until the next question, by this rank's clock; at most twice the last number."""
        now = time.monotonic()
        # Steps may slow down suddenly (a new batch shape, a busy disk), so the number of steps grows at most twofold
        # per question; it shrinks at once.
        step_s, self.polled_at = max(now - self.polled_at, 1e-6) / self.poll_every_steps, now
        return max(1, min(2 * self.poll_every_steps, int(POLL_INTERVAL_S / step_s)))
