"""A run: one RayJob or RayService from its submission to its last Pod, through KubeRay, Kueue and Ray's autoscaler."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from emoji_ldm.cluster.simulate.autoscaler import scale
from emoji_ldm.cluster.simulate.groups import Group, Stage
from emoji_ldm.cluster.simulate.kuberay import Make, Order
from emoji_ldm.cluster.simulate.losses import lose, mourn, notice
from emoji_ldm.cluster.simulate.pods import Pod, State
from emoji_ldm.cluster.simulate.progress import settle
from emoji_ldm.cluster.simulate.scenario import WorkSpec
from emoji_ldm.cluster.simulate.workloads import Workload

if TYPE_CHECKING:
    from emoji_ldm.cluster.simulate.nodes import Node
    from emoji_ldm.cluster.simulate.world import World


class Run:
    """State and acts of one run."""

    def __init__(self, world: World, name: str, work: WorkSpec, groups: list[Group]) -> None:
        self.world, self.name, self.work, self.groups = world, name, work, groups
        self.stage = Stage.LATER
        self.pods: list[dict[int, Pod]] = [{} for _ in groups]
        self.num_ready = [0] * len(groups)
        self.num_bound = 0
        self.wanted = [group.least for group in groups]
        self.epoch = 0  # orders of an earlier one are void
        self.num_whole = 0  # how often a Pod became ready and none was missing
        self.going: set[int] = set()  # Pods that are ready, and told to go
        self.head_ready = False
        self.joining: list[Pod] = []
        self.done = self.speed = 0.0
        self.since = self.saved_at = 0.0
        self.submitted_at = self.first_ready_at = self.ended_at = -1.0
        self.num_evicted = self.num_restarts = self.num_lost = self.backoffs = 0
        self.gaps: list[float] = []  # since when workers are missing, until another is ready
        self.replaced_s: list[float] = []  # how long each was missing
        self.lost_work = self.served = self.asked = self.queued_s = self.cost_usd = self.gpu_s = 0.0
        self.reason = "not submitted yet"
        self.waited_from = 0.0
        self.below = 0  # times that a service had fewer workers than its min_available
        self.reached = False
        self.paused_until = 0.0
        self.finish_number = 0
        self.submitting = -1  # the epoch whose submitter was asked for
        self.until = math.inf  # of a service
        self.too_many_since: float | None = None
        self.workers = [index for index, group in enumerate(groups) if group.role == "worker"]
        self.head = next(index for index, group in enumerate(groups) if group.role == "head")
        self.submitter = next((index for index, group in enumerate(groups) if group.role == "submitter"), None)
        self.workload = Workload(name, work.queue, work.priority, tuple(g.podset(g.least) for g in groups))

    # what others ask

    @property
    def spread(self) -> bool:
        """Whether its Pods are spread over zones and nodes."""
        return self.work.is_service

    def crowd(self, node: Node) -> tuple[int, int]:
        """How many of its workers the node's zone and the node itself have."""
        mine = [pod.node for index in self.workers for pod in self.pods[index].values() if pod.node is not None]
        return sum(other.zone == node.zone for other in mine), sum(other is node for other in mine)

    @property
    def is_gang(self) -> bool:
        """Whether it works with all its workers or not at all."""
        return not self.work.elastic and not self.work.is_service

    @property
    def fixed_s(self) -> float:
        """Of a reconciler besides Pods: a RayJob is two objects, itself and its RayCluster."""
        return self.world.rates.cluster_s * (1 if self.work.is_service else 2)

    @property
    def live(self) -> int:
        return sum(len(pods) for pods in self.pods)

    @property
    def complete(self) -> bool:
        """Head and all `least` workers are ready: the gang is whole."""
        return self.head_ready and all(self.num_ready[i] >= self.groups[i].least for i in self.workers)

    @property
    def partial(self) -> bool:
        """Some Pods hold nodes while others of the gang do not."""
        return self.num_bound > 0 and not self.complete and self.stage in (Stage.STARTING, Stage.RUNNING)

    # queue

    def submit(self) -> None:
        self.stage, self.submitted_at = Stage.PENDING, self.world.clock.now
        self.workload.created = self.waited_from = self.world.clock.now
        self.world.kueue.submit(self.workload)

    def admitted(self) -> None:
        """Kueue has given quota: KubeRay makes head and workers."""
        self.stage, self.epoch = Stage.STARTING, self.epoch + 1
        self.queued_s += self.world.clock.now - self.waited_from
        self.wanted = [group.least for group in self.groups]
        names = [self.head, *(index for index in self.workers for _ in range(self.groups[index].least))]
        self.order(self.fixed_s, names)
        self.give_up_after(self.world.rates.pods_ready_s)

    def give_up_after(self, seconds: float) -> None:
        """Kueue evicts what is not whole by then; if it was in between, its time begins anew."""
        self.world.clock.after(seconds, self._check_ready, self.epoch, self.num_whole)

    def evict(self, why: str, *, backoff: bool) -> None:
        """Kueue takes the quota back: all Pods end after their grace period, then the run waits again."""
        if self.stage not in (Stage.STARTING, Stage.RUNNING):
            return
        settle(self)
        self.workload.leaving = True
        self.num_evicted += 1
        self.backoffs = self.backoffs + 1 if backoff else 0
        for pod in self.every_pod():
            if self.work.elastic:
                lose(self, pod)
            self.world.clock.after(self.work.grace_s, self.end, pod, why)
        self.stage, self.reason, self.speed = Stage.LEAVING, why, 0.0
        self.epoch += 1
        self.gaps.clear()
        if not self.live:
            self._left()

    def _left(self) -> None:
        world, rates = self.world, self.world.rates
        world.give_back(self)
        self.stage, self.waited_from = Stage.PENDING, world.clock.now
        if rates.backoff_limit is not None and self.backoffs > rates.backoff_limit:
            self.stage, self.ended_at = Stage.DEACTIVATED, world.clock.now
            self.reason = f"deactivated: its Pods were not ready in time {self.backoffs} times"
            world.ended(self)
            return
        wait = min(rates.backoff_s * 2 ** (self.backoffs - 1), rates.backoff_max_s) if self.backoffs else 0.0
        self.workload.reason = f"{self.reason}; requeued in {wait:.0f} s" if wait else self.reason
        if wait:
            world.clock.after(wait, self._again)
        else:
            self._again()

    def _again(self) -> None:
        if self.stage is Stage.PENDING:
            self.world.kueue.submit(self.workload)

    def _check_ready(self, epoch: int, num_whole: int) -> None:
        same = (epoch, num_whole) == (self.epoch, self.num_whole)
        if same and not self.complete and self.stage in (Stage.STARTING, Stage.RUNNING):
            missing = self._missing()
            self.evict(f"PodsReadyTimeout: {missing}", backoff=True)

    def _missing(self) -> str:
        for pod in self.every_pod():
            if pod.state is State.PENDING:
                return pod.reason
        return "Pods are starting" if self.live else "KubeRay has not made its Pods"

    # Pods

    def order(self, fixed_s: float, names: Iterable[int]) -> None:
        """Have KubeRay make Pods of these groups, unless the run is evicted meanwhile."""
        groups = list(names)
        self.world.operator.submit(Order(fixed_s, len(groups), Make(self, self.epoch, groups)))

    def make(self, group: int) -> None:
        pool = self.workload.flavors[self.groups[group].name]
        pod = self.world.create(self, group, pool)
        self.pods[group][pod.number] = pod
        self.world.fleet.scheduler.add(pod)

    def started(self, pod: Pod) -> None:
        """The container runs; a worker joins once the head answers."""
        if self.groups[pod.group].role != "worker":
            self.ready(pod)
        elif self.head_ready:
            self.world.clock.after(self.world.rates.join_s, self.ready, pod)
        else:
            pod.reason = "waits for the head"
            self.joining.append(pod)

    def ready(self, pod: Pod) -> None:
        if pod.state is not State.BOUND:
            return
        settle(self)
        pod.state, pod.ready_at, pod.reason = State.READY, self.world.clock.now, ""
        self.num_ready[pod.group] += 1
        if self.gaps and self.groups[pod.group].role == "worker":
            self.replaced_s.append(self.world.clock.now - self.gaps.pop(0))
        if pod.group == self.head:
            self.head_ready = True
            for worker in self.joining:
                self.world.clock.after(self.world.rates.join_s, self.ready, worker)
            self.joining = []
        self.num_whole += self.complete
        self._advance()

    def _advance(self) -> None:
        """What becoming ready leads to."""
        if self.stage is Stage.STARTING and self.complete:
            if self.submitter is None or self.num_ready[self.submitter]:
                self._begin()
            elif self.submitting != self.epoch:  # KubeRay submits once the cluster is ready
                self.submitting = self.epoch
                self.order(0.0, [self.submitter])
        elif self.stage is Stage.RUNNING and self.is_gang and self.complete and not self.speed:
            self._pause()  # the gang is whole again
        settle(self)

    def _begin(self) -> None:
        settle(self)
        now = self.world.clock.now
        self.stage, self.saved_at = Stage.RUNNING, now
        self.backoffs = 0
        if self.first_ready_at < 0:
            self.first_ready_at = now
        elif self.done > 0:
            self._pause()
        if self.work.is_service:
            self.until = min(self.until, now + self.work.days * 86400)
            self.world.clock.at(self.until, self.finish, None)
        scale(self, self.epoch)

    def _pause(self) -> None:
        """The checkpoint is read before the work goes on."""
        if self.paused_until <= self.world.clock.now:
            self.paused_until = self.saved_at = self.world.clock.now + self.work.restart_s
            self.world.clock.after(self.work.restart_s, settle, self)

    def noticed(self, pod: Pod) -> None:
        notice(self, pod)

    def lost(self, pod: Pod) -> None:
        self.end(pod, "lost with its spot node")

    def end(self, pod: Pod, why: str) -> None:
        """A Pod ends, once; what it was needed for is made again."""
        if pod.state is State.ENDED:
            return
        settle(self)
        was_ready = pod.state is State.READY
        pod.state, pod.end = State.ENDED, why
        del self.pods[pod.group][pod.number]
        self.num_ready[pod.group] -= was_ready
        self.going.discard(pod.number)
        if pod.group == self.head:
            self.head_ready = False
        if pod in self.joining:
            self.joining.remove(pod)
        self.world.closed(pod)
        if self.stage in (Stage.STARTING, Stage.RUNNING):
            mourn(self, pod)
        elif not self.live:
            self._left() if self.stage is Stage.LEAVING else self._over()
        settle(self)

    # work

    def finish(self, number: int | None) -> None:
        """All is done: KubeRay deletes the cluster."""
        if self.stage is not Stage.RUNNING or (number is not None and number != self.finish_number):
            return
        settle(self)
        if self.work.total is not None:
            self.done = self.work.total
        self.speed = 0.0
        self.stage, self.ended_at, self.reason = Stage.ENDING, self.world.clock.now, ""
        self.epoch += 1
        self.world.operator.submit(Order(self.fixed_s, self.live, self._delete))
        if not self.live:
            self._over()

    def _delete(self) -> None:
        for pod in self.every_pod()[:1]:
            self.end(pod, "succeeded")

    def _over(self) -> None:
        if self.stage is Stage.ENDING:
            self.stage = Stage.DONE
            self.world.give_back(self)
            self.world.ended(self)

    def every_pod(self) -> list[Pod]:
        """Its Pods: submitter, workers, head."""
        return [pod for pods in reversed(self.pods) for pod in pods.values()]
