"""A finished simulation as plain values: what each piece of work took and cost, what waits and why, what is assumed."""

from __future__ import annotations

from typing import Any

from emoji_ldm.cluster.simulate.groups import Stage
from emoji_ldm.cluster.simulate.runs import Run
from emoji_ldm.cluster.simulate.scenario import WorkSpec
from emoji_ldm.cluster.simulate.world import World

OPEN = (Stage.LATER, Stage.PENDING, Stage.STARTING, Stage.RUNNING, Stage.LEAVING)


def results(world: World) -> dict[str, Any]:
    """Everything that `--json` prints; times in seconds, money in US dollars."""
    books = world.books
    gone = [seconds for run in world.every for seconds in run.replaced_s]
    return {
        "about": world.scenario.about,
        "seed": world.scenario.seed,
        "seconds": round(world.clock.now, 3),
        "cost_usd": round(books.billed_usd, 2),
        "idle_usd": round(books.billed_usd - books.charged_usd, 2),
        "prices": world.scenario.prices,
        "work": [_work(work, world.runs[work.name]) for work in world.scenario.work],
        "open": [_open(run) for run in world.every if run.stage in (*OPEN, Stage.DEACTIVATED)],
        "most": {"nodes": books.most_nodes, "pods": books.most_pods},
        "node_hours": {name: round(seconds / 3600, 2) for name, seconds in sorted(books.node_s.items())},
        "pods": {"created": world.laws.num_created, "ended": world.laws.num_ended},
        "spot": {
            "nodes_lost": world.fleet.num_lost,
            "workers_moved": sum(run.num_lost for run in world.every),
            "slowest_replacement_s": round(max(gone, default=0.0), 1),
            "storms": [{"at_s": at, "lost": lost, "of": there} for at, lost, there in books.storms],
        },
        "preempted": world.kueue.num_preempted,
        "laws": world.laws.breaches,
        "examples": world.laws.examples,
        "samples": books.rows(),
        "events": world.clock.num_events,
    }


def _work(work: WorkSpec, runs: list[Run]) -> dict[str, Any]:
    """One row: all copies of a piece of work together."""
    begun = [run.first_ready_at for run in runs if run.first_ready_at >= 0]
    ended = [run.ended_at for run in runs if run.stage is Stage.DONE]
    done = sum(run.served if work.is_service else run.done for run in runs)
    cost = sum(run.cost_usd for run in runs)
    submitted = [run.submitted_at for run in runs if run.submitted_at >= 0]
    waited = [run.queued_s + (run.world.clock.now - run.waited_from) * (run.stage is Stage.PENDING) for run in runs]
    return {
        "name": work.name,
        "copies": len(runs),
        "ended": len(ended),
        "unit": work.unit,
        "wanted": round(sum(run.asked for run in runs) if work.is_service else (work.total or 0) * len(runs), 1),
        "done": round(done, 1),
        "submitted_s": min(submitted, default=None),
        "begun_s": min(begun, default=None),
        "ended_s": max(ended) if len(ended) == len(runs) else None,
        "queued_s": round(max(waited, default=0.0), 1),
        "workers": sum(group.least for group in runs[0].groups if group.role == "worker"),
        "gpu_hours": round(sum(run.gpu_s for run in runs) / 3600, 2),
        "cost_usd": round(cost, 2),
        "usd_per_million": round(cost / done * 1e6, 2) if done else None,
        "evicted": sum(run.num_evicted for run in runs),
        "restarts": sum(run.num_restarts for run in runs),
        "lost_work": round(sum(run.lost_work for run in runs), 1),
        "measured": work.measured,
        "source": work.source,
    }


def _open(run: Run) -> dict[str, Any]:
    """A run that has not ended, and why."""
    reason = run.workload.reason if run.stage is Stage.PENDING else run.reason
    if run.stage is Stage.LATER:
        reason = f"waits for {', '.join(run.work.after)}" if run.work.after else "is submitted later"
    done = run.done / run.work.total if run.work.total else None
    return {"name": run.name, "stage": str(run.stage), "reason": reason or "goes on", "share_done": done}
