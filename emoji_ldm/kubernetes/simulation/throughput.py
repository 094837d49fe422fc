"""Work as a fluid: what a run has done, how fast it goes on, and what a service is asked for."""

from __future__ import annotations

import math

import simpy

from emoji_ldm.kubernetes.simulation.scenario import WorkloadSpec

DAY_S = 86_400.0


class WorkProgress:
    """The amount of work that a run has done; it grows at `speed` between two calls of `settle`."""

    def __init__(self, env: simpy.Environment, spec: WorkloadSpec) -> None:
        self.env, self.spec = env, spec
        self.done = self.speed = 0.0
        self.lost = self.requested = 0.0  # done again after a loss; asked of a service
        self._since = self._saved_at = 0.0
        self._until = math.inf  # of a service, once it has begun

    def begin(self) -> None:
        """The run is complete for the first time."""
        self._since = self._saved_at = self.env.now
        if self.spec.is_service:
            self._until = self.env.now + self.spec.days * DAY_S

    @property
    def is_over(self) -> bool:
        if self.spec.total is None:
            return self.env.now >= self._until
        return self.done >= self.spec.total

    @property
    def remaining_s(self) -> float:
        """Until the end, should the speed stay as it is."""
        if self.spec.total is None:
            return self._until - self.env.now
        return (self.spec.total - self.done) / self.speed if self.speed else math.inf

    def settle(self) -> None:
        """Add what was done since the last call. A service is asked from its first answer on, also while it is down."""
        # Before `begin`, and after the end of a service, no time counts.
        seconds = max(min(self.env.now, self._until) - self._since, 0.0)
        if self.spec.total is not None:
            self.done += self.speed * seconds
            if math.isclose(self.done, self.spec.total, rel_tol=1e-12):
                self.done = self.spec.total  # the sum of many steps may miss the end by a rounding error
        elif self._until < math.inf:
            load = load_per_s(self.spec, self._since)
            self.requested += load * seconds
            self.done += min(load, self.speed) * seconds
        self._since = self.env.now

    def set_speed(self, speed: float) -> None:
        """Units per second from now on; never more than the ceiling of the whole job."""
        self.settle()
        self.speed = min(speed, self.spec.ceiling or math.inf)

    def mark_saved(self, at_s: float) -> None:
        """A checkpoint is written at that time, or the work goes on from one."""
        self._saved_at = max(self._saved_at, at_s)

    def lose_since_save(self) -> None:
        """Go back to the last checkpoint, and stand still."""
        # Checkpoints are written at regular intervals after the last save.
        age_s = (self.env.now - self._saved_at) % self.spec.checkpoint_s if self.env.now > self._saved_at else 0.0
        self.lose(self.speed * age_s)
        self.speed = 0.0

    def lose(self, amount: float) -> None:
        """Some of the work has to be done again."""
        self.settle()
        amount = min(amount, self.done)
        self.done -= amount
        self.lost += amount


def load_per_s(spec: WorkloadSpec, at_s: float) -> float:
    """Requests per second: constant for a quarter of an hour, highest at 18:00 of each day."""
    hour = (at_s // 900) * 900 / 3600
    return (spec.load_per_s or 0.0) * (1 + spec.swing * math.sin(2 * math.pi * (hour - 12) / 24))
