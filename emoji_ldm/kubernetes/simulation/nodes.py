"""Nodes and the Pods on them: Karpenter provisions nodes for pending Pods, and removes nodes that are empty.

A Pod that fits on a ready node is bound at once. Otherwise it joins a queue of its pool, and the pool orders as many
nodes as the queue fills. Runs have thousands of Pods of very few sizes, so the queues are kept by size: a look at the
first Pod of each size tells whether any Pod fits on a node.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from typing import Protocol

import simpy

from emoji_ldm.kubernetes.simulation.quota import PodSet, SimPyProcess
from emoji_ldm.kubernetes.simulation.scenario import ControlPlaneRates, NodePoolSpec

RESOURCES = ("cpu", "memory", "nvidia.com/gpu")
PodSize = tuple[int, int, int]  # millicores, MiB, GPUs


class PodPhase(StrEnum):
    """The state of a Pod; each is entered at most once, and every Pod enters `ENDED`."""

    PENDING = "pending"
    BOUND = "bound"
    READY = "ready"
    ENDED = "ended"


@dataclass(frozen=True)
class PodGroup:
    """Identical Pods of a run: its head, or a worker group."""

    name: str
    size: PodSize
    image: str
    flavors: tuple[str, ...]
    min_replicas: int
    max_replicas: int
    rate: float  # units of work per second of one Pod

    def pod_set(self, replicas: int) -> PodSet:
        """A pod set of this many Pods, as Kueue counts them."""
        return PodSet(self.name, replicas, tuple(zip(RESOURCES, self.size, strict=True)), self.flavors)


class PodOwner(Protocol):
    """The run that a Pod belongs to, as far as nodes and interruptions need it."""

    name: str
    priority: int

    def interrupted(self, pod: SimulatedPod) -> None:
        """The node of the Pod has received an interruption notice."""

    def end(self, pod: SimulatedPod, reason: str) -> None:
        """The Pod has ended."""


@dataclass(eq=False)
class SimulatedPod:
    """One Pod of a run."""

    number: int
    owner: PodOwner
    group: PodGroup
    pool: str
    bound: simpy.Event
    phase: PodPhase = PodPhase.PENDING
    node: SimulatedNode | None = None
    bound_at: float = -1.0
    ready_at: float = -1.0
    end_reason: str = ""
    is_surplus: bool = False  # scaled down, so it is not replaced
    process: simpy.Process | None = None  # which starts the Pod


@dataclass(eq=False)
class SimulatedNode:
    """A machine: its free capacity, its Pods and its images."""

    number: int
    pool: NodePool
    free: PodSize
    ordered_at: float
    booting: bool = True
    ready: bool = False  # accepts Pods
    idle_since: float = 0.0

    def __post_init__(self) -> None:
        self.pods: dict[int, SimulatedPod] = {}
        self.images: dict[str, simpy.Event] = {}  # triggered once the image is pulled

    # Whole numbers, as in `quota`: sums of floats would drift, and a node that exactly fits would refuse a Pod.
    def take(self, size: PodSize, sign: int = 1) -> None:
        """Occupy capacity, or free it with `sign=-1`."""
        cpu, memory, gpus = self.free
        self.free = (cpu - sign * size[0], memory - sign * size[1], gpus - sign * size[2])


class NodePool:
    """The nodes of one kind, and the Pods that wait for one."""

    def __init__(self, name: str, spec: NodePoolSpec) -> None:
        self.name, self.spec = name, spec
        self.size: PodSize = (round(spec.cpu * 1000), round(spec.memory_gib * 1024), spec.gpus)
        self.nodes: dict[int, SimulatedNode] = {}
        # One heap per size, ordered by priority, then age: if the first Pod of a heap does not fit on a node, no other
        # does. Pods that end while they wait stay in their heap until they reach its top.
        self.waiting: dict[PodSize, list[tuple[int, int, SimulatedPod]]] = {}
        self.is_provisioning = False

    def pending(self) -> Iterator[SimulatedPod]:
        """The Pods that wait for a node."""
        for heap in self.waiting.values():
            yield from (pod for _, _, pod in heap if pod.phase is PodPhase.PENDING)

    def next_waiting(self, size: PodSize) -> SimulatedPod | None:
        """The first Pod of a size that waits for a node; None if there is none."""
        heap = self.waiting.get(size, [])
        while heap and heap[0][2].phase is not PodPhase.PENDING:
            heapq.heappop(heap)
        return heap[0][2] if heap else None

    def waiting_reason(self, size: PodSize) -> str:
        """Why a Pod of a size waits for a node."""
        if not fits(size, self.size):
            return f"larger than any node of pool {self.name} ({self.spec.instance})"
        if len(self.nodes) >= self.spec.limit:
            return f"node pool {self.name} is at its limit of {self.spec.limit} nodes"
        return f"a node of pool {self.name} is starting"


class NodeFleet:
    """All node pools: binds Pods to nodes, and orders and removes nodes."""

    def __init__(
        self, env: simpy.Environment, pools: dict[str, NodePoolSpec], rates: ControlPlaneRates, seed: int
    ) -> None:
        self.env, self.rates, self.seed = env, rates, seed
        # Pools are independent of each other: Kueue has assigned a flavor, and with it a pool, before a Pod is created.
        self.pools = {name: NodePool(name, spec) for name, spec in pools.items()}
        # All nodes share the bandwidth of the registry, which bounds how many can pull at the same time.
        self.registry = simpy.Resource(env, max(int(rates.registry_gb_s / rates.pull_gb_s), 1))
        self.on_ready: list[Callable[[SimulatedNode], object]] = []
        self.on_gone: list[Callable[[SimulatedNode], None]] = []
        self.changed: set[SimulatedNode] = set()  # received Pods since the invariants were last checked
        self.num_lost = 0
        self._numbers = count()
        for pool in self.pools.values():
            for _ in range(pool.spec.static):
                env.process(self._boot(self._order(pool), 0.0))

    def nodes(self) -> Iterator[SimulatedNode]:
        for pool in self.pools.values():
            yield from pool.nodes.values()

    def start_pod(self, pod: SimulatedPod) -> SimPyProcess:
        """Wait until the container of a new Pod runs: for a node, the image and the start of Ray."""
        self._place(self.pools[pod.pool], pod)
        yield pod.bound
        assert pod.node is not None
        yield self._image_pulled(pod.node, pod.group.image)
        yield self.env.timeout(self.rates.start_s)

    def leave(self, pod: SimulatedPod) -> None:
        """Free the capacity of a Pod that has ended."""
        node = pod.node
        if node is None:
            return
        # The freed room may suit a waiting Pod, which must not wait until the next node boots. Only then can the node
        # be idle.
        del node.pods[pod.number]
        node.take(pod.group.size, -1)
        if node.ready:
            self._fill(node)
            self._watch_idle(node)

    def remove(self, node: SimulatedNode) -> None:
        """Remove a node; the pool may order another for Pods that wait."""
        node.ready = False
        del node.pool.nodes[node.number]
        for notify in self.on_gone:
            notify(node)
        self._request_nodes(node.pool)

    def _place(self, pool: NodePool, pod: SimulatedPod) -> None:
        size = pod.group.size
        # If Pods of the same size wait, no node has room for another, so the nodes need not be searched. This keeps the
        # creation of thousands of Pods linear.
        nodes = () if pool.next_waiting(size) else pool.nodes.values()
        node = next((node for node in nodes if node.ready and fits(size, node.free)), None)
        if node:
            self._bind(node, pod)
            return
        heapq.heappush(pool.waiting.setdefault(size, []), (-pod.owner.priority, pod.number, pod))
        self._request_nodes(pool)

    def _bind(self, node: SimulatedNode, pod: SimulatedPod) -> None:
        node.take(pod.group.size)
        node.pods[pod.number] = pod
        self.changed.add(node)
        pod.node, pod.phase, pod.bound_at = node, PodPhase.BOUND, self.env.now
        pod.bound.succeed()

    def _fill(self, node: SimulatedNode) -> None:
        """Bind waiting Pods to the free capacity of a node."""
        for size, heap in node.pool.waiting.items():
            while fits(size, node.free) and (pod := node.pool.next_waiting(size)):
                heapq.heappop(heap)
                self._bind(node, pod)

    def _image_pulled(self, node: SimulatedNode, image: str) -> simpy.Event:
        """The event of a pulled image; a node pulls each image once, however many of its Pods wait for it."""
        if image not in node.images:
            node.images[image] = self.env.process(self._pull(self.rates.images_gb[image]))
        return node.images[image]

    def _pull(self, size_gb: float) -> SimPyProcess:
        with self.registry.request() as slot:
            yield slot
            yield self.env.timeout(size_gb / self.rates.pull_gb_s)

    def _request_nodes(self, pool: NodePool) -> None:
        # One batch at a time: Pods that come while it is collected are part of it.
        if not (pool.is_provisioning or pool.spec.static) and any(pool.pending()):
            pool.is_provisioning = True
            self.env.process(self._provision(pool))

    def _provision(self, pool: NodePool) -> SimPyProcess:
        """Order nodes for the waiting Pods, up to the limit of the pool."""
        # Karpenter collects Pods for a while and orders nodes for all of them at once.
        yield self.env.timeout(self.rates.provision_batch_s)
        pool.is_provisioning = False
        # Nodes that are booting were ordered for Pods that still wait, so they are subtracted from the demand.
        starting = sum(node.booting for node in pool.nodes.values())
        for _ in range(min(_num_nodes(pool) - starting, pool.spec.limit - len(pool.nodes))):
            node = self._order(pool)
            # The random number depends on the node alone, so that a different order of events does not change it.
            jitter = self.rates.startup_jitter * (2 * random.Random(f"{self.seed}:start:{node.number}").random() - 1)
            self.env.process(self._boot(node, pool.spec.startup_s * (1 + jitter)))

    def _order(self, pool: NodePool) -> SimulatedNode:
        node = SimulatedNode(next(self._numbers), pool, pool.size, self.env.now)
        pool.nodes[node.number] = node
        return node

    def _boot(self, node: SimulatedNode, startup_s: float) -> SimPyProcess:
        yield self.env.timeout(startup_s)
        node.booting, node.ready = False, True
        self._fill(node)
        self._watch_idle(node)
        for notify in self.on_ready:
            notify(node)

    def _watch_idle(self, node: SimulatedNode) -> None:
        if not node.pods and not node.pool.spec.static:
            node.idle_since = self.env.now
            # If a Pod arrives during the idle time, it is still there when the timeout ends, or it has left again and
            # `idle_since` has changed; either way this timeout has no effect.
            self.env.process(self._consolidate(node, self.env.now))

    def _consolidate(self, node: SimulatedNode, since: float) -> SimPyProcess:
        yield self.env.timeout(node.pool.spec.idle_s)
        if node.ready and not node.pods and node.idle_since == since:
            self.remove(node)


def fits(size: PodSize, room: PodSize) -> bool:
    """Whether a Pod of a size fits into free capacity."""
    return size[0] <= room[0] and size[1] <= room[1] and size[2] <= room[2]


def _num_nodes(pool: NodePool) -> int:
    """How many empty nodes the waiting Pods fill, packed with next-fit as an approximation of Karpenter."""
    num, room = 0, (0, 0, 0)
    # A Pod that is larger than a whole node fits nowhere, so no node is ordered for it; `waiting_reason` reports it.
    for size in (pod.group.size for pod in pool.pending()):
        if not fits(size, pool.size):
            continue
        if not fits(size, room):
            num, room = num + 1, pool.size
        room = (room[0] - size[0], room[1] - size[1], room[2] - size[2])
    return num
