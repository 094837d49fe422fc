"""Work as a fluid: how much a run has done, its current speed, and the load of a service.

Simulating single images would need billions of events. Instead, the amount done grows linearly between two events that
change the speed, and `settle` adds it up. A loss moves the amount back to the last checkpoint.
"""

from __future__ import annotations

import math

import simpy

from emoji_ldm.kubernetes.simulation.scenario import WorkloadSpec

DAY_S = 86_400.0


class WorkProgress:
    """The work of one run, which grows at `speed` between two calls of `settle`."""

    def __init__(self, env: simpy.Environment, spec: WorkloadSpec) -> None:
        self.env, self.spec = env, spec
        self.done = self.speed = 0.0
        self.lost = 0.0  # work that had to be repeated
        self.requested = 0.0  # requests that a service has received
        self._since = self._saved_at = 0.0
        self._until = math.inf  # of a service, once it has begun

    def begin(self) -> None:
        """Start the clock, when the run is complete for the first time."""
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
        """Time to the end at the current speed."""
        if self.spec.total is None:
            return self._until - self.env.now
        return (self.spec.total - self.done) / self.speed if self.speed else math.inf

    def settle(self) -> None:
        """Add what was done since the last call. A service receives requests even while it is down."""
        # Time before `begin` and after the end of a service does not count.
        seconds = max(min(self.env.now, self._until) - self._since, 0.0)
        if self.spec.total is not None:
            self.done += self.speed * seconds
            if math.isclose(self.done, self.spec.total, rel_tol=1e-12):
                self.done = self.spec.total  # a sum of many steps may miss the end by a rounding error
        elif self._until < math.inf:
            # The load at the beginning of the step holds for the whole step; the autoscaler settles once a minute, so
            # steps are short. Requests beyond the capacity are lost, as nothing queues them.
            load = load_per_s(self.spec, self._since)
            self.requested += load * seconds
            self.done += min(load, self.speed) * seconds
        self._since = self.env.now

    def set_speed(self, speed: float) -> None:
        """Set the units per second from now on, limited by the ceiling of the job."""
        self.settle()
        self.speed = min(speed, self.spec.ceiling or math.inf)

    def mark_saved(self, at_s: float) -> None:
        """Record that a checkpoint is written at that time, or that work resumes from one then."""
        self._saved_at = max(self._saved_at, at_s)

    def lose_since_save(self) -> None:
        """Go back to the last checkpoint, and stop."""
        # Since the last recorded save, checkpoints were written at regular intervals.
        age_s = (self.env.now - self._saved_at) % self.spec.checkpoint_s if self.env.now > self._saved_at else 0.0
        self.lose(self.speed * age_s)
        self.speed = 0.0

    def lose(self, amount: float) -> None:
        """Move some of the work from done to lost; it has to be repeated."""
        self.settle()
        # Work can be lost once only, and never more than there is.
        amount = min(amount, self.done)
        self.done -= amount
        self.lost += amount


def load_per_s(spec: WorkloadSpec, at_s: float) -> float:
    """Requests per second of a service, a sine over the day with its maximum at 18:00."""
    # Constant for a quarter of an hour, since each change of the load is an event.
    hour = (at_s // 900) * 900 / 3600
    return (spec.load_per_s or 0.0) * (1 + spec.swing * math.sin(2 * math.pi * (hour - 12) / 24))
