"""Whom Kueue evicts so that a workload may start, as its `pkg/scheduler/preemption` at v0.19 decides."""

from __future__ import annotations

from collections.abc import Mapping

from emoji_ldm.cluster.simulate.quota import ClusterQueue, Cohort, Request
from emoji_ldm.cluster.simulate.workloads import Workload, merge, request_of

Holding = Mapping[str, Mapping[int, Workload]]  # admitted workloads by queue


def victims(
    cohort: Cohort, queue: ClusterQueue, workload: Workload, holding: Holding
) -> tuple[list[Workload], Request]:
    """The fewest whose leaving makes room, and the request they make room for; [] if nobody's would.

    Others' borrowers come first, then low priorities, then the newest.
    """
    wanted = _wanted(cohort, queue, workload)
    chosen: list[Workload] = []
    for victim in _candidates(cohort, queue, workload, wanted, holding) if wanted else []:
        chosen.append(victim)
        cohort.add(cohort.queues[victim.queue], victim.held, -1)
        if _room(cohort, queue, wanted, chosen):
            break
    enough = bool(chosen) and _room(cohort, queue, wanted, chosen)
    taken = _fewest(cohort, queue, wanted, chosen) if enough else chosen
    for victim in taken:
        cohort.add(cohort.queues[victim.queue], victim.held)
    return (taken if enough else []), wanted


def _wanted(cohort: Cohort, queue: ClusterQueue, workload: Workload) -> Request:
    """The request in the first flavor that is large enough at all; {} if none is."""
    total: Request = {}
    for podset in workload.podsets:
        for flavor in queue.flavors:
            request = request_of(podset, flavor)
            allowed = not podset.flavors or flavor in podset.flavors
            if allowed and all(
                key in queue.quotas and total.get(key, 0) + n <= cohort.ceiling(queue, key)
                for key, n in request.items()
            ):
                merge(total, request)
                break
        else:
            return {}
    return total


def _candidates(
    cohort: Cohort, queue: ClusterQueue, workload: Workload, wanted: Request, holding: Holding
) -> list[Workload]:
    """Whom it may evict, in the order of their going."""
    own = [w for w in holding[queue.name].values() if queue.within != "Never" and w.priority < workload.priority]
    inside = not cohort.borrows(queue, wanted)
    others = _others(cohort, queue, wanted, holding)
    if inside and queue.reclaim == "Never":
        others = []
    elif inside and queue.reclaim == "LowerPriority":
        others = [w for w in others if w.priority < workload.priority]
    elif not inside:  # borrowWithinCohort
        most = -1 if queue.borrow_over is None else queue.borrow_over
        others = [w for w in others if w.priority < workload.priority and w.priority <= most]
    fair = [w for w in (*others, *own) if not w.leaving and any(key in w.held for key in wanted)]
    return sorted(fair, key=lambda w: (w.queue == queue.name, w.priority, -w.admitted, -w.created))


def _others(cohort: Cohort, queue: ClusterQueue, wanted: Request, holding: Holding) -> list[Workload]:
    """Workloads of other queues that borrow what is wanted."""
    found: list[Workload] = []
    for name, other in cohort.queues.items():
        over = (key for key in wanted if key in other.quotas and other.used.get(key, 0) > other.quotas[key].nominal)
        if name != queue.name and any(over):
            found += holding[name].values()
    return found


def _room(cohort: Cohort, queue: ClusterQueue, wanted: Request, chosen: list[Workload]) -> bool:
    """Whether it fits; at others' expense only inside its own nominal quota, unless it may borrow over them."""
    if not cohort.fits(queue, wanted):
        return False
    others = [w for w in chosen if w.queue != queue.name]
    may = queue.borrow_over is not None and all(w.priority <= queue.borrow_over for w in others)
    return not others or may or not cohort.borrows(queue, wanted)


def _fewest(cohort: Cohort, queue: ClusterQueue, wanted: Request, chosen: list[Workload]) -> list[Workload]:
    """Of the chosen, whose quota counts as free here, those that are needed; the others hold theirs again."""
    fewest = chosen
    for victim in reversed(chosen[:-1]):
        place, rest = cohort.queues[victim.queue], [other for other in fewest if other is not victim]
        cohort.add(place, victim.held)
        if _room(cohort, queue, wanted, rest):
            fewest = rest
        else:
            cohort.add(place, victim.held, -1)
    return fewest
