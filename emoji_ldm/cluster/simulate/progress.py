"""Work as a fluid: what a run has done, at which speed it goes on, what a service answers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from emoji_ldm.cluster.simulate.groups import Stage

if TYPE_CHECKING:
    from emoji_ldm.cluster.simulate.runs import Run


def settle(run: Run) -> None:
    """Count what was done until now at the old speed, and begin with the new one."""
    now = run.world.clock.now
    if run.work.is_service:
        serve(run, now)
        return
    if run.speed:
        run.done += run.speed * (now - run.since)
    run.since = now
    working = run.stage is Stage.RUNNING and now >= run.paused_until and (run.complete or run.work.elastic)
    speed = rate(run, run.num_ready) if working and run.head_ready else 0.0
    if speed != run.speed:
        run.speed = speed
        plan(run)


def plan(run: Run) -> None:
    """The end, should nothing change before."""
    run.finish_number += 1
    if run.speed:
        left = max((run.work.total or 0.0) - run.done, 0.0)
        run.world.clock.after(left / run.speed, run.finish, run.finish_number)


def serve(run: Run, now: float) -> None:
    """Requests since the last change: what was asked for, and what the ready replicas could draw.

    From its first answer to its end it is asked, also while it is down.
    """
    ready = sum(run.num_ready[i] for i in run.workers)
    if run.first_ready_at >= 0 and run.stage not in (Stage.ENDING, Stage.DONE, Stage.DEACTIVATED):
        asked, seconds = load(run, run.since), max(min(now, run.until) - run.since, 0.0)
        run.asked += asked * seconds
        run.served += min(asked, run.speed) * seconds
    if run.stage is Stage.RUNNING:
        run.reached = run.reached or ready >= run.work.min_available
        run.below += run.reached and ready < run.work.min_available and run.speed > rate(run, run.num_ready)
    run.since = now
    run.speed = rate(run, run.num_ready) if run.stage is Stage.RUNNING and run.head_ready else 0.0


def load(run: Run, time: float) -> float:
    """Requests per second: constant for a quarter of an hour, highest at 18:00 of each day."""
    hour = (time // 900) * 900 / 3600
    return (run.work.load_per_s or 0.0) * (1 + run.work.swing * math.sin(2 * math.pi * (hour - 12) / 24))


def rate(run: Run, counts: list[int]) -> float:
    """Units per second of so many Pods of each group."""
    total = sum(counts[i] * run.groups[i].rate for i in run.workers)
    return total if run.work.ceiling is None else min(total, run.work.ceiling)
