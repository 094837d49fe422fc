"""Invariants of a simulation: what must hold at every moment, whatever the scenario.

Each invariant is computed from first principles (Pods on nodes, workloads with quota) and not from the counters by
which the simulation makes its decisions, so that an error in one is not repeated in the other. A violation does not
stop the run; it is counted and reported with an example, and the figures of such a run are not to be trusted.
"""

from __future__ import annotations

from collections import Counter

from emoji_ldm.kubernetes.simulation.control_plane import ControlPlane
from emoji_ldm.kubernetes.simulation.job_model import ACTIVE, RayClusterRun, RunPhase
from emoji_ldm.kubernetes.simulation.nodes import RESOURCES, PodPhase, SimulatedPod
from emoji_ldm.kubernetes.simulation.quota import Usage

INVARIANTS = (
    "quota",
    "pods beyond quota",
    "partial gangs",
    "no reason",
    "nodes overfull",
    "pool limits",
    "pods ended twice",
    "min available",
)
# The checker looks at samples, not at events, so a gang may be seen a while after its deadline.
MARGIN_S = 60.0


class InvariantChecker:
    """Counts violations of the invariants and keeps the first example of each."""

    def __init__(self, plane: ControlPlane, runs: list[RayClusterRun]) -> None:
        self.plane, self.runs = plane, runs
        self.violations: dict[str, int] = dict.fromkeys(INVARIANTS, 0)
        self.examples: dict[str, str] = {}
        self.num_created = self.num_ended = 0
        self._open: set[int] = set()
        self._partial_since: dict[str, float] = {}
        plane.on_pod_created.append(self._created)
        plane.on_pod_ended.append(self._ended)
        plane.admission.on_change.append(self.check_quotas)

    @property
    def hold(self) -> bool:
        return not any(self.violations.values())

    def check(self, interval_s: float) -> None:
        """Check what can be checked at any moment; the previous check was `interval_s` ago."""
        self.check_quotas()
        self._check_nodes()
        waiting = {id(workload) for workload in self.plane.admission.pending()}
        for run in self.runs:
            self._check_reason(run, waiting)
            self._check_gang(run, interval_s)
            self._check_pods(run)

    def check_at_end(self) -> None:
        """Check that every Pod ended exactly once or still exists, and that no service had too few workers."""
        # Two counts have to agree: the Pods that events have opened and not closed, and those that the runs still know.
        alive = {pod.number for run in self.runs for pod in run.every_pod()}
        if alive != self._open or self.num_created != self.num_ended + len(alive):
            counts = f"{self.num_created} created, {self.num_ended} ended, {len(alive)} alive"
            self._violated("pods ended twice", counts)
        for run in self.runs:
            if run.num_below_minimum:
                self._violated("min available", f"{run.name}: {run.num_below_minimum} times")

    def check_quotas(self) -> None:
        """Compare what admitted workloads hold with the limits of queues and cohorts."""
        for cohort in self.plane.admission.cohorts:
            # The sums are computed from the workloads, not from `queue.used`, by which admission decides.
            total: Counter[tuple[str, str]] = Counter()
            for name, queue in cohort.queues.items():
                used: Counter[tuple[str, str]] = Counter()
                for workload in self.plane.admission.holding[name]:
                    used.update(workload.held)
                for key, quota in queue.quotas.items():
                    if quota.maximum is not None and used[key] > quota.maximum:
                        self._violated("quota", f"{name}: {key} {used[key]} > {quota.maximum}")
                    # Reserved quota that is idle is nobody else's to use, so it counts as used. The sum of a cohort
                    # then never exceeds its nominal quota, whoever borrowed from whom.
                    total[key] += max(used[key], quota.reserved)
            for key, amount in total.items():
                nominal = sum(queue.quotas[key].nominal for queue in cohort.queues.values() if key in queue.quotas)
                if amount > nominal:
                    self._violated("quota", f"cohort: {key} {amount} > {nominal}")

    def _created(self, pod: SimulatedPod) -> None:
        self.num_created += 1
        self._open.add(pod.number)

    def _ended(self, pod: SimulatedPod) -> None:
        self.num_ended += 1
        if pod.number not in self._open or pod.phase is not PodPhase.ENDED or not pod.end_reason:
            self._violated("pods ended twice", f"Pod {pod.number} of {pod.owner.name}")
        self._open.discard(pod.number)

    def _check_nodes(self) -> None:
        fleet = self.plane.fleet
        for pool in fleet.pools.values():
            # A static fleet exists from the start, whatever its limit.
            if len(pool.nodes) > max(pool.spec.limit, pool.spec.static):
                self._violated("pool limits", f"{pool.name}: {len(pool.nodes)} > {pool.spec.limit}")
        for node in fleet.changed:
            used = [sum(pod.group.size[i] for pod in node.pods.values()) for i in range(len(RESOURCES))]
            if any(amount > size for amount, size in zip(used, node.pool.size, strict=True)):
                self._violated("nodes overfull", f"node {node.number}: {used} of {node.pool.size}")
        fleet.changed.clear()

    def _check_reason(self, run: RayClusterRun, waiting: set[int]) -> None:
        if run.phase is not RunPhase.PENDING:
            return
        if not run.workload.reason:
            self._violated("no reason", run.name)
        # A run that backs off is in no queue on purpose.
        elif id(run.workload) not in waiting and "requeued" not in run.workload.reason:
            self._violated("no reason", f"{run.name} is in no queue")

    def _check_gang(self, run: RayClusterRun, interval_s: float) -> None:
        """No gang works without being complete, or stays partially placed for longer than Kueue allows."""
        if run.spec.is_gang and run.progress.speed and not run.is_complete:
            self._violated("partial gangs", f"{run.name} works without being complete")
        if not _is_partially_placed(run):
            self._partial_since.pop(run.name, None)
            return
        now, rates = self.plane.env.now, self.plane.rates
        since = self._partial_since.setdefault(run.name, now)
        # Kueue evicts at the timeout, Pods then use their grace period, and checks are `interval_s` apart.
        if now - since > max(rates.pods_ready_s, rates.recovery_s) + run.spec.grace_s + interval_s + MARGIN_S:
            self._violated("partial gangs", f"{run.name} is partially placed since {since:.0f} s")

    def _check_pods(self, run: RayClusterRun) -> None:
        """The Pods of a run request no more than its workload holds."""
        used: Usage = {}
        for pods in run.pods.values():
            for pod in list(pods.values())[:1]:  # all Pods of a group have one size and one flavor
                for key, amount in pod.group.pod_set(len(pods)).usage(pod.pool).items():
                    used[key] = used.get(key, 0) + amount
        for key, amount in used.items():
            if amount > run.workload.held.get(key, 0):
                self._violated("pods beyond quota", f"{run.name}: {key} {amount} > {run.workload.held.get(key, 0)}")

    def _violated(self, invariant: str, example: str) -> None:
        self.violations[invariant] += 1
        self.examples.setdefault(invariant, f"{self.plane.env.now:.0f} s: {example}")


def _is_partially_placed(run: RayClusterRun) -> bool:
    """Whether some Pods of a gang occupy nodes although the gang is not complete."""
    has_nodes = any(pod.node is not None for pod in run.every_pod())
    return run.spec.is_gang and run.phase in ACTIVE and not run.is_complete and has_nodes
