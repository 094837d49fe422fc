"""Nodes in pools: made when Pods wait for them (as Karpenter does), taken back when empty, lost when they are spot."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from enum import StrEnum
from itertools import count

from emoji_ldm.cluster.simulate.clock import Clock
from emoji_ldm.cluster.simulate.groups import Size
from emoji_ldm.cluster.simulate.pods import Pod, Registry, Scheduler, State
from emoji_ldm.cluster.simulate.scenario import NOTICE_S, PoolSpec, Rates


class Phase(StrEnum):
    """A node's life."""

    BOOTING = "booting"
    READY = "ready"
    LEAVING = "leaving"  # spot, with notice: takes no more Pods
    GONE = "gone"


class Node:
    """A machine: what is free on it, which Pods and images it has."""

    __slots__ = (
        "born",
        "empty_since",
        "expected",
        "free",
        "images",
        "number",
        "phase",
        "pods",
        "pool",
        "pulling",
        "zone",
    )

    def __init__(self, number: int, pool: Pool, now: float) -> None:
        self.number, self.pool, self.born = number, pool, now
        self.phase, self.zone = Phase.BOOTING, number % pool.spec.zones
        self.free: Size = pool.size
        self.pods: dict[int, Pod] = {}
        self.images: set[str] = set()
        self.pulling: dict[str, list[Pod]] = {}
        self.expected: list[Pod] = []  # for whom it was started
        self.empty_since = now

    def fits(self, size: Size) -> bool:
        free = self.free
        return size[0] <= free[0] and size[1] <= free[1] and size[2] <= free[2]

    def take(self, size: Size, sign: int = 1) -> None:
        free = self.free
        self.free = (free[0] - sign * size[0], free[1] - sign * size[1], free[2] - sign * size[2])


class Pool:
    """Nodes of one kind, and the Pods that wait for one."""

    def __init__(self, name: str, spec: PoolSpec) -> None:
        self.name, self.spec = name, spec
        self.size: Size = (round(spec.cpu * 1000), round(spec.memory_gib * 1024), spec.gpus)
        self.nodes: dict[int, Node] = {}
        self.waiting: dict[Size, dict[int, Pod]] = {}  # by shape, in the order of their coming
        self.room: dict[Size, dict[int, Node]] = {}  # nodes that may have room for a shape
        self.planned = False
        self.plan: Node | None = None  # the newest starting node, whose `free` is what no Pod is nominated for yet

    def candidates(self, size: Size) -> dict[int, Node]:
        """Nodes that may take a shape; whoever finds one full removes it."""
        if size not in self.room:
            self.room[size] = {node.number: node for node in self.nodes.values() if node.phase is Phase.READY}
        return self.room[size]

    def spot_nodes(self) -> list[Node]:
        return [node for node in self.nodes.values() if self.spec.spot and node.phase is Phase.READY]


class Fleet:
    """All pools; binds Pods to nodes."""

    def __init__(self, clock: Clock, rates: Rates, pools: dict[str, PoolSpec], seed: int) -> None:
        self.clock, self.rates, self.seed = clock, rates, seed
        self.pools = {name: Pool(name, spec) for name, spec in pools.items()}
        self.registry = Registry(clock, rates)
        self.scheduler = Scheduler(clock, rates, self._place)
        self.numbers = count()
        self.num_lost = self.num_made = 0
        self.touched: set[Node] = set()  # since the laws looked at them
        self.on_billed: Callable[[Node], None] = lambda node: None  # a node is gone
        for pool in self.pools.values():
            for _ in range(pool.spec.static):
                self._ready(self._make(pool))

    def nodes(self) -> Iterator[Node]:
        for pool in self.pools.values():
            yield from pool.nodes.values()

    def _place(self, pod: Pod) -> bool:
        """Bind a Pod to a node with room; without one it waits, and a node is asked for."""
        pool = self.pools[pod.pool]
        node = self._choose(pool, pod)
        if node is None:
            self._wait(pool, pod)
            return False
        node.take(pod.size)
        node.pods[pod.number] = pod
        pod.run.num_bound += 1
        self.touched.add(node)
        pod.node, pod.state, pod.bound_at, pod.reason = node, State.BOUND, self.clock.now, "its image is pulled"
        self._fetch(node, pod)
        return True

    def _choose(self, pool: Pool, pod: Pod) -> Node | None:
        """The first node with room, or for a service's Pod the one whose zone and node have the fewest of its group."""
        rooms, full = pool.candidates(pod.size), []
        chosen: list[Node] = []
        for node in rooms.values():
            if node.phase is not Phase.READY or not node.fits(pod.size):
                full.append(node.number)
                continue
            chosen.append(node)
            if not pod.run.spread:
                break
        for number in full:
            del rooms[number]
        if len(chosen) < 2:
            return chosen[0] if chosen else None
        return min(chosen, key=lambda node: (*pod.run.crowd(node), node.number))

    def _wait(self, pool: Pool, pod: Pod) -> None:
        pool.waiting.setdefault(pod.size, {})[pod.number] = pod
        pod.reason = f"no node of pool {pool.name} has room"
        self._ask(pool)

    def _ask(self, pool: Pool) -> None:
        if not pool.planned and any(pool.waiting.values()):
            pool.planned = True
            self.clock.after(self.rates.provision_batch_s, self._provision, pool)

    def _provision(self, pool: Pool) -> None:
        """Make as many nodes as the waiting Pods need, up to the pool's limit."""
        pool.planned = False
        plan = pool.plan if pool.plan and pool.plan.phase is Phase.BOOTING else None
        for pods in pool.waiting.values():
            for pod in pods.values():
                if pod.nominee is not None and pod.nominee.phase is Phase.BOOTING:
                    continue
                if not all(wanted <= whole for wanted, whole in zip(pod.size, pool.size, strict=True)):
                    pod.reason = f"larger than any node of pool {pool.name} ({pool.spec.instance})"
                    continue
                if plan is None or not plan.fits(pod.size):
                    plan = self._another(pool)
                if plan is None:
                    pod.reason = f"node pool {pool.name} is at its limit of {pool.spec.limit} nodes"
                    continue
                plan.take(pod.size)
                pool.plan = plan
                plan.expected.append(pod)
                pod.nominee, pod.reason = plan, f"a node of pool {pool.name} is starting"

    def _another(self, pool: Pool) -> Node | None:
        if len(pool.nodes) >= pool.spec.limit or pool.spec.static:
            return None
        node = self._make(pool)
        chance = random.Random(f"{self.seed}:start:{node.number}")
        spread = self.rates.startup_jitter * (2 * chance.random() - 1)
        self.clock.after(pool.spec.startup_s * (1 + spread), self._ready, node)
        return node

    def _make(self, pool: Pool) -> Node:
        node = Node(next(self.numbers), pool, self.clock.now)
        pool.nodes[node.number] = node
        self.num_made += 1
        return node

    def _ready(self, node: Node) -> None:
        pool = node.pool
        node.phase, node.free, node.empty_since = Phase.READY, pool.size, self.clock.now
        self._welcome(node)
        self._open(node)
        node.expected = []
        self._ask(pool)  # whoever was to come here and found it full
        if pool.spec.spot and pool.spec.loss_per_h:
            chance = random.Random(f"{self.seed}:life:{node.number}")
            self.clock.after(chance.expovariate(pool.spec.loss_per_h / 3600), self.warn, node)
        self._idle(node)

    def _welcome(self, node: Node) -> None:
        """Those for whom the node was started go to the scheduler."""
        for pod in node.expected:
            if pod.nominee is node and pod.state is State.PENDING:
                node.pool.waiting[pod.size].pop(pod.number, None)
                pod.nominee = None
                self.scheduler.add(pod)

    def _open(self, node: Node) -> None:
        """The node has room: whoever waits for that goes back to the scheduler, as many as fit."""
        pool, left = node.pool, node.free
        for pod in node.expected:
            left = (left[0] - pod.size[0], left[1] - pod.size[1], left[2] - pod.size[2])
        for rooms in pool.room.values():
            rooms[node.number] = node
        for size, pods in pool.waiting.items():
            while pods and all(a <= b for a, b in zip(size, left, strict=True)):
                number = min(pods, key=lambda n: pods[n].key) if len(pods) < 50 else next(iter(pods))
                pod = pods.pop(number)
                pod.nominee = None
                left = (left[0] - size[0], left[1] - size[1], left[2] - size[2])
                self.scheduler.add(pod)

    def _fetch(self, node: Node, pod: Pod) -> None:
        image = pod.run.groups[pod.group].image
        if image in node.images:
            self._start(pod)
        elif image in node.pulling:
            node.pulling[image].append(pod)
        else:
            node.pulling[image] = [pod]
            self.registry.pull(self.rates.images_gb[image], lambda: self._pulled(node, image))

    def _pulled(self, node: Node, image: str) -> None:
        node.images.add(image)
        for pod in node.pulling.pop(image, []):
            self._start(pod)

    def _start(self, pod: Pod) -> None:
        if pod.state is State.BOUND:
            pod.reason = "starts"
            self.clock.after(self.rates.start_s, self._started, pod)

    def _started(self, pod: Pod) -> None:
        if pod.state is State.BOUND:
            pod.run.started(pod)

    def leave(self, pod: Pod) -> None:
        """A Pod has ended: its room is free."""
        node = pod.node
        if node is None:
            for pods in self.pools[pod.pool].waiting.values():
                pods.pop(pod.number, None)
            return
        del node.pods[pod.number]
        pod.run.num_bound -= 1
        node.take(pod.size, -1)
        if node.phase is Phase.READY:
            self._open(node)
            if not node.pods:
                node.empty_since = self.clock.now
                self._idle(node)

    def _idle(self, node: Node) -> None:
        if not node.pool.spec.static:
            self.clock.after(node.pool.spec.idle_s, self._consolidate, node, node.empty_since)

    def _consolidate(self, node: Node, since: float) -> None:
        if node.phase is Phase.READY and not node.pods and node.empty_since == since:
            self._remove(node)

    def warn(self, node: Node) -> None:
        """Notice of two minutes: no new Pods; those there are told, so that they save, drain or are replaced."""
        if node.phase is not Phase.READY:
            return
        node.phase = Phase.LEAVING
        self.clock.after(NOTICE_S, self._lose, node)
        for pod in list(node.pods.values()):
            pod.run.noticed(pod)

    def _lose(self, node: Node) -> None:
        self.num_lost += 1
        for pod in list(node.pods.values()):
            pod.run.lost(pod)
        self._remove(node)

    def _remove(self, node: Node) -> None:
        node.phase = Phase.GONE
        del node.pool.nodes[node.number]
        for rooms in node.pool.room.values():
            rooms.pop(node.number, None)
        self.on_billed(node)
        self._ask(node.pool)  # the limit has room again
