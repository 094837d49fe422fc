"""The life of one RayJob or RayService: it waits for quota, starts its Pods, works, and ends.

Work is a fluid: simulating single images would need billions of events, so the amount done grows linearly between two
moments at which the number of working Pods changes. If a worker is lost, an elastic job continues with fewer, while a
gang stops until the worker is replaced and then reads the checkpoint that it saved on the notice.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

import simpy

from emoji_ldm.kubernetes.simulation.nodes import NodeFleet, SimPyProcess, SimulatedPod
from emoji_ldm.kubernetes.simulation.quota import QuotaAdmission, QuotaRequest, Usage, pod_usage
from emoji_ldm.kubernetes.simulation.scenario import HEAD_POOL, WorkerGroupSpec, WorkloadSpec

HEAD = WorkerGroupSpec(pool=HEAD_POOL, cpu=2, memory_gib=8, min_replicas=1)  # as in k8s/base/pods.yaml, everywhere
MAX_DRAIN_S = 110.0  # drains must end before the two minutes of notice are over
LOAD_STEP_S = 900.0  # the load of a service is constant for this long, since each change is an event
DAY_S = 86_400.0


class RayClusterRun:
    """One run: a head, and workers in groups."""

    def __init__(self, fleet: NodeFleet, admission: QuotaAdmission, name: str, spec: WorkloadSpec) -> None:
        self.env, self.fleet, self.admission, self.name, self.spec = fleet.env, fleet, admission, name, spec
        self.groups = {"head": HEAD, **spec.groups}
        self.pods: dict[str, list[SimulatedPod]] = {group: [] for group in self.groups}
        self.requests: list[QuotaRequest] = []  # that wait for quota
        self.held = Usage()  # quota
        self.changed, self.ended = self.env.event(), self.env.event()
        self.submitted_at = self.admitted_at = self.begun_at = self.ended_at = math.inf
        self.done = self.lost = self.requested = self.speed = self.pod_work = 0.0
        self.num_interrupted = self.num_restarts = 0
        self.replaced_s: list[float] = []  # from the notice of each lost worker until its successor worked
        # What bounds the run, in the words of the report, and for how many seconds it did.
        self.limit, self.limited_s = "start", defaultdict[str, float](float)
        self._since, self._is_restarting, self._growing = 0.0, False, set[str]()

    @property
    def stage(self) -> str:
        now, times = self.env.now, (self.submitted_at, self.admitted_at, self.begun_at, self.ended_at)
        return ("scheduled", "pending", "starting", "running", "done")[sum(at <= now for at in times)]

    @property
    def queued_s(self) -> float:
        """How long it has waited for quota."""
        return max(min(self.admitted_at, self.env.now) - self.submitted_at, 0.0)

    @property
    def is_complete(self) -> bool:
        """Whether the head and `min_replicas` of every worker group are working."""
        return all(self.num_working(name) >= group.min_replicas for name, group in self.groups.items())

    @property
    def remaining_s(self) -> float:
        """Time to the end at the current speed."""
        if self.spec.total is None:
            return self.begun_at + self.spec.days * DAY_S - self.env.now
        if self.done == self.spec.total:
            return 0.0
        return (self.spec.total - self.done) / self.speed if self.speed else math.inf

    def num_working(self, group: str) -> int:
        return sum(pod.is_working for pod in self.pods[group])

    @property
    def reason(self) -> str:
        """What it waits for or is bounded by, as a sentence."""
        if self.stage == "scheduled":
            return f"waits for {', '.join(self.spec.after)}"
        return next((request.reason for request in self.requests), f"bounded by {self.limit}")

    def every_pod(self) -> list[SimulatedPod]:
        return [pod for pods in self.pods.values() for pod in pods]

    def life(self, after: Iterable[simpy.Event]) -> SimPyProcess:
        """The whole life of the run, which is submitted once all events of `after` have happened."""
        yield self.env.all_of(after)
        self.submitted_at = self._since = self.env.now
        usages = (pod_usage(group, group.min_replicas) for group in self.groups.values())
        yield from self._quota(sum(usages, Usage()))
        self.admitted_at = self.env.now
        # A RayJob is two objects to reconcile, itself and its RayCluster.
        fixed_s = self.fleet.rates.cluster_s * (1 if self.spec.is_service else 2)
        pods = [self._new_pod(name) for name, group in self.groups.items() for _ in range(group.min_replicas)]
        self.env.process(self.fleet.create(fixed_s, pods))
        self.update()
        while not self.is_complete:
            yield self.changed
        self.begun_at = self.env.now
        self.env.process(self._scale())
        yield from self._work()
        self.ended_at = self.env.now
        self.close()
        self.ended.succeed()

    def update(self) -> None:
        """Add up what was done, then take notice of a change of Pods, quota or load."""
        self._settle()
        gang_stands = self.spec.is_gang and (self._is_restarting or not self.is_complete)
        can_work = self.stage == "running" and not gang_stands
        workers = sum(self.num_working(name) for name in self.spec.groups) if can_work else 0
        self.speed = min(workers * self.spec.rate, self.spec.ceiling or math.inf)
        self.limit = self._current_limit()
        # A SimPy event can be triggered once only, so later waits need a new one.
        self.changed.succeed()
        self.changed = self.env.event()

    def close(self) -> None:
        """End all Pods and give the quota back: the work is done, or the simulation is over."""
        if self.submitted_at < math.inf:
            self._settle()
        self.speed = 0.0
        for name in self.pods:
            self._remove(name, 0)
        for request in self.requests:
            self.admission.cancel(request)
        self.admission.release(self.spec.queue, self.held)
        self.held = Usage()

    def _quota(self, usage: Usage) -> SimPyProcess:
        """Wait until quota is held."""
        spec = self.spec
        request = self.admission.submit(self.name, spec.queue, spec.priority, self.submitted_at, usage)
        self.requests.append(request)
        yield self.env.timeout(0)  # now it has been tried, and has a reason if it waits
        self.update()
        yield request.granted
        if self.stage != "done":  # else it has ended in this moment and has cancelled the request
            self.requests.remove(request)
            self.held.update(usage)

    def _work(self) -> SimPyProcess:
        """Wait until all is done, or the days of a service are over."""
        self.update()
        while self.remaining_s > 0:
            if self.spec.is_gang and not self.is_complete:
                self._is_restarting = True
                while not self.is_complete:
                    yield self.changed
                self.num_restarts += 1
                yield self.env.timeout(self.fleet.rates.restart_s)
                self._is_restarting = False
                self.update()
                continue
            # The speed is constant until a Pod comes or goes. Then the remaining time is computed anew; the old timeout
            # is still triggered later, but no process waits for it any more.
            yield self.changed | self.env.timeout(self.remaining_s)
            self._settle()

    def _settle(self) -> None:
        """Add what was done since the last call; the speed and the load were constant in between."""
        seconds = self.env.now - self._since
        self.limited_s[self.limit] += seconds
        if self.spec.total is not None:
            self.done += self.speed * seconds
            if math.isclose(self.done, self.spec.total, rel_tol=1e-9):
                self.done = self.spec.total  # a sum of many steps may miss the end by a rounding error
        elif self.stage == "running":
            # Requests beyond the capacity are lost, as nothing queues them.
            load = load_per_s(self.spec, self._since)
            self.requested += load * seconds
            self.done += min(load, self.speed) * seconds
        self._since = self.env.now

    def _current_limit(self) -> str:
        """What bounds the run now: quota, nodes, the start of Pods, its ceiling, or that it has no more workers."""
        no_node = (pod.group.pool for pod in self.every_pod() if pod.is_created and pod.node is None)
        shortages = [request.shortage for request in self.requests if not request.granted.triggered]
        if lacking := [*shortages, *(f"nodes of {pool}" for pool in no_node)]:
            return lacking[0]
        if self.speed == 0:
            return "start"
        return "ceiling" if self.speed == self.spec.ceiling else "load" if self.spec.is_service else "workers"

    def _scale(self) -> SimPyProcess:
        """Ray's autoscaler: a job gets workers up to its maximum, a service as many as its load needs."""
        while self.stage == "running":
            for name in self.spec.groups:
                self._remove(name, self._target(name), release=True)
                if name not in self._growing:
                    self._growing.add(name)
                    self.env.process(self._grow(name))
            self.update()
            if not self.spec.is_service:
                return
            yield self.env.timeout(LOAD_STEP_S - self.env.now % LOAD_STEP_S)

    def _target(self, name: str) -> int:
        """How many workers of a group the run should have now; only the first group of a service follows its load."""
        group = self.groups[name]
        if not self.spec.is_service:
            return group.maximum
        others = sum(other.min_replicas for key, other in self.spec.groups.items() if key != name)
        # A replica is kept at its target utilisation, not at its full rate, to absorb bursts.
        needed = math.ceil(load_per_s(self.spec, self.env.now) / (self.spec.rate * self.spec.busy)) - others
        is_first = name == next(iter(self.spec.groups))
        return min(max(needed, group.min_replicas), group.maximum) if is_first else group.min_replicas

    def _grow(self, name: str) -> SimPyProcess:
        """Add workers one by one up to the target, as far as there is quota."""
        # Quota comes before Pods, as with Kueue's elastic jobs: Pods that were created first would start without quota.
        while self.stage == "running" and len(self.pods[name]) < self._target(name):
            yield from self._quota(pod_usage(self.groups[name], 1))
            if self.stage == "running":
                self.env.process(self.fleet.create(0.0, [self._new_pod(name)]))
        self._growing.remove(name)

    def _new_pod(self, name: str) -> SimulatedPod:
        pod = SimulatedPod(self.env, self.name, self.groups[name])
        self.pods[name].append(pod)
        self.env.process(self._watch(name, pod))
        return pod

    def _watch(self, name: str, pod: SimulatedPod) -> SimPyProcess:
        """Take part in the life of a Pod: it becomes ready; if its node is lost, it drains and is replaced."""
        yield pod.ready | pod.noticed
        self.update()
        yield pod.noticed
        noticed_at, drain_s = self.env.now, min(self.spec.grace_s, MAX_DRAIN_S)
        self.num_interrupted += 1
        if self.spec.is_gang:
            pod.is_working = False  # it saves now; what it worked during the grace period would be repeated
            self.update()
        yield self.env.timeout(drain_s)
        if pod.is_ended:
            return
        self._settle()
        # Workers start a shard when they are ready, and one that ends within the grace period is committed.
        if self.spec.elastic and pod.is_working and self.spec.shard_s > drain_s:
            amount = min(self.spec.rate * ((self.env.now - pod.ready_at) % self.spec.shard_s), self.done)
            self.done -= amount
            self.lost += amount
        self._end(name, pod)
        successor = self._new_pod(name)
        self.update()
        yield from self.fleet.create(0.0, [successor])
        yield successor.ready
        self.replaced_s.append(self.env.now - noticed_at)

    def _remove(self, name: str, keep: int, *, release: bool = False) -> None:
        """End the newest Pods of a group, and release their quota."""
        for pod in self.pods[name][keep:]:
            self._end(name, pod)
            if release:
                self.held.subtract(pod_usage(pod.group, 1))
                self.admission.release(self.spec.queue, pod_usage(pod.group, 1))

    def _end(self, name: str, pod: SimulatedPod) -> None:
        if pod.ready.triggered and name in self.spec.groups:
            self.pod_work += self.spec.rate * (self.env.now - pod.ready_at)
        self.pods[name].remove(pod)
        self.fleet.end(pod)


def load_per_s(spec: WorkloadSpec, at_s: float) -> float:
    """Requests per second of a service, a sine over the day with its maximum at 18:00."""
    hour = at_s // LOAD_STEP_S * LOAD_STEP_S / 3600
    return (spec.load_per_s or 0.0) * (1 + spec.swing * math.sin(2 * math.pi * (hour - 12) / 24))
