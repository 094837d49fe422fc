"""The life of one RayJob or RayService: its states, and the SimPy process that moves it through them.

A run waits for quota (Kueue), has its Pods created (KubeRay), waits until they are ready, works, and ends. If its Pods
are not ready in time, Kueue evicts it and requeues it with back-off. If a worker is lost, an elastic job continues with
fewer, while a gang stops until the worker is replaced and then reads its checkpoint.

Processes of several actors change the same run: its lifecycle, the start of each Pod, the autoscaler, interruptions.
`notify` wakes the lifecycle whenever the number of ready Pods changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum

import simpy

from emoji_ldm.kubernetes.simulation.control_plane import ControlPlane
from emoji_ldm.kubernetes.simulation.nodes import PodGroup, PodPhase, SimulatedPod
from emoji_ldm.kubernetes.simulation.quota import QueuedWorkload, SimPyProcess
from emoji_ldm.kubernetes.simulation.scenario import WorkloadSpec
from emoji_ldm.kubernetes.simulation.throughput import WorkProgress

# Drains must end before the two minutes of notice are over.
MAX_DRAIN_S = 110.0


class RunPhase(StrEnum):
    """The state of a run."""

    SCHEDULED = "scheduled"  # not submitted yet
    PENDING = "pending"  # in its queue, or backing off
    STARTING = "starting"  # admitted, but its Pods are not all ready
    RUNNING = "running"
    EVICTED = "evicted"  # its Pods end, then it waits again
    FINISHING = "finishing"  # done; its Pods end
    DONE = "done"
    DEACTIVATED = "deactivated"  # evicted more often than the back-off limit allows


ENDED = (RunPhase.DONE, RunPhase.DEACTIVATED)
ACTIVE = (RunPhase.STARTING, RunPhase.RUNNING)


class RayClusterRun:
    """One run. `groups[0]` is its head, the others are worker groups."""

    def __init__(self, plane: ControlPlane, name: str, spec: WorkloadSpec, groups: list[PodGroup]) -> None:
        self.plane, self.env, self.name, self.spec = plane, plane.env, name, spec
        self.head, self.workers = groups[0], groups[1:]
        self.priority = spec.priority
        self.pods: dict[str, dict[int, SimulatedPod]] = {group.name: {} for group in groups}
        self.desired = {group.name: group.min_replicas for group in groups}
        pod_sets = tuple(group.pod_set(group.min_replicas) for group in groups)
        self.workload = QueuedWorkload(name, spec.queue, spec.priority, pod_sets)
        self.progress = WorkProgress(plane.env, spec)
        self.phase, self.reason = RunPhase.SCHEDULED, "not submitted yet"
        # Orders for Pods may wait in KubeRay for minutes. Each carries the epoch in which it was given and is ignored
        # if an eviction or the end of the run has started another epoch since then.
        self.epoch = 0
        self.submitted_at = self.begun_at = self.ended_at = self.waiting_since = -1.0
        self.num_evicted = self.num_restarts = self.num_interrupted = self.num_backoffs = 0
        self.missing_since: list[float] = []  # when each worker was lost that is not replaced yet
        self.replaced_s: list[float] = []  # how long each lost worker was missing
        self.queued_s = 0.0
        self.num_below_minimum = 0  # how often a service had fewer workers than its min_available
        self.on_running: Callable[[RayClusterRun], object] = lambda run: None
        self.changed, self.head_ready, self.ended = plane.env.event(), plane.env.event(), plane.env.event()

    def num_ready(self, group: PodGroup) -> int:
        return sum(pod.phase is PodPhase.READY for pod in self.pods[group.name].values())

    def every_pod(self) -> list[SimulatedPod]:
        """All its Pods, workers first: they end before their head."""
        return [pod for pods in reversed(self.pods.values()) for pod in pods.values()]

    @property
    def is_complete(self) -> bool:
        """Whether the head and `min_replicas` of every worker group are ready."""
        return self.head_ready.triggered and all(self.num_ready(g) >= g.min_replicas for g in self.workers)

    def lifecycle(self, after: Iterable[simpy.Event]) -> SimPyProcess:
        """The whole life of the run, which is submitted once all events of `after` have happened."""
        yield self.env.all_of(after)
        self.submitted_at = self.env.now
        while self.phase not in ENDED:
            yield from self._wait_for_quota()
            # Both return why the run has to give up its quota, or '' if it may go on.
            reason = (yield from self._start()) or (yield from self._work())
            yield from self._requeue_later(reason) if reason else self._finish()
        self.ended_at = self.env.now if self.ended_at < 0 else self.ended_at
        self.ended.succeed()

    def _wait_for_quota(self) -> SimPyProcess:
        self.phase, self.workload.created, self.waiting_since = RunPhase.PENDING, self.submitted_at, self.env.now
        yield self.plane.admission.submit(self.workload)
        self.queued_s += self.env.now - self.waiting_since
        self.phase, self.reason = RunPhase.STARTING, ""

    def _start(self) -> SimPyProcess:
        """Order all Pods and wait until they are ready; returns why they were not ready in time, or ''."""
        self.epoch += 1
        self.desired = {group.name: group.min_replicas for group in (self.head, *self.workers)}
        gang = [self.head, *(group for group in self.workers for _ in range(group.min_replicas))]
        self.order(self._fixed_s, gang)
        if reason := (yield from self._wait_until_complete(self.plane.rates.pods_ready_s)):
            return reason
        if not self.spec.is_service:
            # KubeRay creates the submitter last, behind Pods of other runs. It is too small to be modelled as a Pod.
            yield from self.plane.operator.reconcile(0.0, [lambda: None])
            yield self.env.timeout(self.plane.rates.start_s)
        return ""

    @property
    def _fixed_s(self) -> float:
        """Time of a reconciler besides Pods; a RayJob is two objects, itself and its RayCluster."""
        return self.plane.rates.cluster_s * (1 if self.spec.is_service else 2)

    def _wait_until_complete(self, limit_s: float) -> SimPyProcess:
        deadline = self.env.timeout(limit_s)
        while not self.is_complete and not deadline.processed:
            yield self.changed | deadline
        if self.is_complete:
            return ""
        pending = next((pod for pod in self.every_pod() if pod.phase is PodPhase.PENDING), None)
        if pending is None:
            return "PodsReadyTimeout: Pods are starting"
        return f"PodsReadyTimeout: {self.plane.fleet.pools[pending.pool].waiting_reason(pending.group.size)}"

    def _work(self) -> SimPyProcess:
        """Work until everything is done; returns why the run has to stop before that, or ''."""
        self.phase, self.num_backoffs = RunPhase.RUNNING, 0
        if self.begun_at < 0:
            self.begun_at = self.env.now
            self.progress.begin()
        elif self.progress.done > 0 and not self.spec.is_service:
            yield from self._read_checkpoint()
        self.on_running(self)
        while not self.progress.is_over:
            self._set_speed()
            if self.spec.is_gang and not self.is_complete:
                # A gang stops until the lost worker is replaced, for which Kueue grants the recovery timeout. Then all
                # workers read the checkpoint.
                self.num_restarts += 1
                if reason := (yield from self._wait_until_complete(self.plane.rates.recovery_s)):
                    return reason
                yield from self._read_checkpoint()
                continue
            # The speed is constant until a worker comes or goes. Then the remaining time is computed anew; the old
            # timeout is still triggered later, but no process waits for it any more.
            yield self.changed | self.env.timeout(self.progress.remaining_s)
            self.progress.settle()
        return ""

    def _read_checkpoint(self) -> SimPyProcess:
        self.progress.mark_saved(self.env.now + self.spec.restart_s)
        yield self.env.timeout(self.spec.restart_s)

    def _set_speed(self) -> None:
        """Set the speed to that of the ready workers; a gang that is not complete has none."""
        is_working = self.phase is RunPhase.RUNNING and (self.is_complete or not self.spec.is_gang)
        self.progress.set_speed(
            sum(self.num_ready(group) * group.rate for group in self.workers) if is_working else 0.0
        )

    def _finish(self) -> SimPyProcess:
        """End the run, whose work is done: KubeRay deletes its cluster."""
        self.progress.set_speed(0.0)
        self.phase, self.reason, self.ended_at = RunPhase.FINISHING, "", self.env.now
        self.epoch += 1
        ends = [lambda pod=pod: self.end(pod, "succeeded") for pod in self.every_pod()]
        yield from self.plane.operator.reconcile(self._fixed_s, ends)
        self.plane.admission.release(self.workload)
        self.phase = RunPhase.DONE

    def _evict(self, reason: str) -> SimPyProcess:
        """Free nodes and quota after the grace period."""
        self.progress.settle()
        # From here on, no Pod that ends is replaced and no order for Pods is carried out.
        self.phase, self.reason, self.workload.reason = RunPhase.EVICTED, reason, reason
        self.num_evicted += 1
        self.epoch += 1
        self.missing_since.clear()
        # A gang lost nothing here: it stopped when its first Pod was missing, and its progress is that of the last
        # save.
        for pod in self.every_pod() if self.spec.elastic else ():
            self._lose_work(pod)
        self.progress.set_speed(0.0)
        yield self.env.timeout(self.spec.grace_s)
        for pod in self.every_pod():
            self.end(pod, reason)
        self.plane.admission.release(self.workload)

    def _requeue_later(self, reason: str) -> SimPyProcess:
        """Evict the run because Pods were not ready in time, and wait longer each time before the next attempt."""
        yield from self._evict(reason)
        rates = self.plane.rates
        self.num_backoffs += 1
        if rates.backoff_limit is not None and self.num_backoffs > rates.backoff_limit:
            self.phase = RunPhase.DEACTIVATED
            self.reason = f"deactivated: its Pods were not ready in time {self.num_backoffs} times"
            return
        wait_s = min(rates.backoff_s * 2 ** (self.num_backoffs - 1), rates.backoff_max_s)
        self.phase, self.workload.reason = RunPhase.PENDING, f"{reason}; requeued in {wait_s:.0f} s"
        self.waiting_since = self.env.now
        yield self.env.timeout(wait_s)
        self.queued_s += wait_s

    def order(self, fixed_s: float, groups: Iterable[PodGroup]) -> None:
        """Have KubeRay create a Pod for each of these groups, unless the run is evicted meanwhile."""
        calls = [lambda group=group, epoch=self.epoch: self._create_pod(group, epoch) for group in groups]
        self.env.process(self.plane.operator.reconcile(fixed_s, calls))

    def _create_pod(self, group: PodGroup, epoch: int) -> None:
        if epoch != self.epoch:
            return
        pool = self.workload.flavors[group.name]
        pod = SimulatedPod(next(self.plane.pod_numbers), self, group, pool, self.env.event())
        self.pods[group.name][pod.number] = pod
        for notify in self.plane.on_pod_created:
            notify(pod)
        pod.process = self.env.process(self._start_pod(pod))

    def _start_pod(self, pod: SimulatedPod) -> SimPyProcess:
        try:
            yield from self.plane.fleet.start_pod(pod)
            if pod.group is not self.head:
                # The init container of a worker waits for the head; only then does the worker join the cluster.
                yield self.head_ready
                yield self.env.timeout(self.plane.rates.join_s)
        except simpy.Interrupt:
            return  # the Pod ended before it was ready
        pod.phase, pod.ready_at = PodPhase.READY, self.env.now
        if pod.group is self.head:
            self.head_ready.succeed()
        elif self.missing_since:
            self.replaced_s.append(self.env.now - self.missing_since.pop(0))
        self.notify()

    def notify(self) -> None:
        """Wake the run: the number of its ready Pods, or its load, has changed."""
        self.progress.settle()
        # A SimPy event can be triggered once only, so later waits need a new one.
        self.changed.succeed()
        self.changed = self.env.event()

    def interrupted(self, pod: SimulatedPod) -> None:
        """The node of the Pod will be lost in two minutes: the Pod drains, unless a disruption budget forbids it."""
        self.num_interrupted += 1
        if self.spec.is_service and pod.phase is PodPhase.READY:
            draining = sum(other.end_reason != "" for other in self.every_pod())
            left = sum(self.num_ready(group) for group in self.workers) - draining - 1
            if left < self.spec.min_available:
                return  # the PodDisruptionBudget forbids the eviction; the loss of the node itself it cannot prevent
        pod.end_reason = "drained before its spot node was lost"
        # A gang saves on notice. What it works during the grace period after that is lost when the Pod ends.
        self.progress.mark_saved(self.env.now)
        self.env.process(self._drain(pod))

    def _drain(self, pod: SimulatedPod) -> SimPyProcess:
        yield self.env.timeout(min(self.spec.grace_s, MAX_DRAIN_S))
        self.end(pod, pod.end_reason)

    def end(self, pod: SimulatedPod, reason: str) -> None:
        """End a Pod, once; if the run still needs it, a replacement is ordered."""
        if pod.phase is PodPhase.ENDED:
            return
        self.progress.settle()
        starting = pod.phase is not PodPhase.READY and pod.process is not None and pod.process.is_alive
        # The lost work is computed before the Pod is removed, while the speed still includes it.
        if self.phase is RunPhase.RUNNING and not pod.is_surplus:
            self._lose_work(pod)
        pod.phase, pod.end_reason = PodPhase.ENDED, reason
        if starting and pod.process is not None:
            pod.process.interrupt()
        del self.pods[pod.group.name][pod.number]
        if pod.group is self.head:
            self.head_ready = self.env.event()  # workers have to wait for the next head
        self.plane.fleet.leave(pod)
        for notify in self.plane.on_pod_ended:
            notify(pod)
        if self.phase in ACTIVE and not pod.is_surplus:
            self.missing_since.append(self.env.now)
            self.order(0.0, [pod.group])
        self._check_minimum()
        self.notify()

    def _check_minimum(self) -> None:
        if self.spec.is_service and self.phase is RunPhase.RUNNING:
            self.num_below_minimum += sum(self.num_ready(group) for group in self.workers) < self.spec.min_available

    def _lose_work(self, pod: SimulatedPod) -> None:
        """A gang loses all work since its last save, an elastic job a shard that is too long for the grace period."""
        if self.spec.is_gang:
            self.progress.lose_since_save()
            return
        was_working = self.progress.speed and pod.ready_at >= 0
        if self.spec.elastic and was_working and self.spec.checkpoint_s > self.spec.grace_s:
            # Workers start a shard when they become ready and commit one every `checkpoint_s`.
            self.progress.lose(pod.group.rate * ((self.env.now - pod.ready_at) % self.spec.checkpoint_s))
