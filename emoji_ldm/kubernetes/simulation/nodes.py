"""Pods and nodes: KubeRay creates Pods, Karpenter orders nodes for them and removes idle ones, spot nodes are lost.

A Pod goes to the oldest node of its pool with room, which may still be starting. If there is none, a node is ordered.
At the limit of the pool, the Pod waits until room becomes free. Nodes are billed from their order to their removal, and
each Pod is charged for its share of its node; the difference is the cost of idle capacity.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from itertools import count
from typing import Any

import simpy

from emoji_ldm.kubernetes.simulation.scenario import NodePoolSpec, PodSize, SpotStorm, StartRates, WorkerGroupSpec

NOTICE_S = 120.0  # between the notice and the loss of an EC2 spot machine
SimPyProcess = Generator[simpy.Event, Any, Any]


class SimulatedPod:
    """One Pod of a run. The run may end it at any time, even before KubeRay has created it."""

    def __init__(self, env: simpy.Environment, run: str, group: WorkerGroupSpec) -> None:
        self.run, self.group = run, group
        # SimPy's events of its life: it got a node, it can work, its node will be lost.
        self.bound, self.ready, self.noticed = env.event(), env.event(), env.event()
        self.node: SimulatedNode | None = None
        self.bound_at = self.ready_at = 0.0
        self.is_created = self.is_working = self.is_ended = False


class SimulatedNode:
    """A machine: its free capacity and its Pods."""

    def __init__(self, env: simpy.Environment, number: int, pool: NodePool) -> None:
        self.number, self.pool, self.ordered_at, self.idle_since = number, pool, env.now, 0.0
        self.free = pool.spec.size
        self.pods: set[SimulatedPod] = set()
        self.booted = env.event()
        self.has_notice = False  # of a spot interruption: takes no more Pods

    def has_room(self, size: PodSize) -> bool:
        free = self.free
        return size[0] <= free[0] and size[1] <= free[1] and size[2] <= free[2] and not self.has_notice

    def take(self, size: PodSize, sign: int = 1) -> None:
        """Occupy capacity, or free it with `sign=-1`."""
        cpu, memory, gpus = self.free
        self.free = (cpu - sign * size[0], memory - sign * size[1], gpus - sign * size[2])


class NodePool:
    """The nodes of one kind, and the Pods that wait for one at its limit."""

    def __init__(self, spec: NodePoolSpec) -> None:
        self.spec = spec
        self.nodes: dict[int, SimulatedNode] = {}
        self.waiting: list[SimulatedPod] = []
        self.max_nodes = 0
        self.removed_s = 0.0  # node-seconds of the nodes that were removed

    def node_s(self, now: float) -> float:
        """Node-seconds until now."""
        return self.removed_s + sum(now - node.ordered_at for node in self.nodes.values())


class NodeFleet:
    """All node pools, the operator that creates Pods, and what nodes and Pods cost."""

    def __init__(self, env: simpy.Environment, pools: dict[str, NodePoolSpec], rates: StartRates, seed: int) -> None:
        self.env, self.rates, self.seed = env, rates, seed
        self.pools = {name: NodePool(spec) for name, spec in pools.items()}
        self.reconcilers = simpy.Resource(env, rates.reconcile_concurrency)
        self.api = simpy.Resource(env, 1)  # the rate limit that all reconcilers share
        self.charged_usd, self.gpu_s = defaultdict[str, float](float), defaultdict[str, float](float)  # by run
        self.num_created = self.num_ended = self.num_lost = 0
        self.max_pods = self.max_nodes = 0  # at the same time
        self.changed: set[SimulatedNode] = set()  # got Pods since this was last cleared
        self._numbers = count()

    def nodes(self) -> Iterator[SimulatedNode]:
        for pool in self.pools.values():
            yield from pool.nodes.values()

    def billed_usd(self) -> float:
        """The price of all nodes until now."""
        return sum(pool.node_s(self.env.now) / 3600 * pool.spec.price_usd_h for pool in self.pools.values())

    def create(self, fixed_s: float, pods: Iterable[SimulatedPod]) -> SimPyProcess:
        """KubeRay's operator: a reconciler is occupied for `fixed_s` and then for one API call per Pod, in order."""
        # An object holds its reconciler until its last Pod is created. Large clusters therefore delay the small ones
        # behind them, and at thousands of Pods the operator is the bottleneck.
        with self.reconcilers.request() as reconciler:
            yield reconciler
            yield self.env.timeout(fixed_s)
            for pod in pods:
                with self.api.request() as call:
                    yield call
                    yield self.env.timeout(1 / self.rates.api_pods_per_s)
                if not pod.is_ended:
                    self.env.process(self._start(pod))

    def end(self, pod: SimulatedPod) -> None:
        """End a Pod, free its capacity for others and charge its run."""
        assert not pod.is_ended
        pod.is_ended, pod.is_working = True, False
        self.num_ended += pod.is_created
        node, pool = pod.node, self.pools[pod.group.pool]
        if node is None:
            pool.waiting = [other for other in pool.waiting if other is not pod]
            return
        self._charge(pod, node)
        node.pods.remove(pod)
        node.take(pod.group.size, -1)
        for other in pool.waiting.copy():
            if node.has_room(other.group.size):
                pool.waiting.remove(other)
                self._bind(node, other)
        if not node.pods:
            self.env.process(self._remove_if_idle(node))

    def storm(self, number: int, storm: SpotStorm, log: list[dict[str, float]]) -> SimPyProcess:
        """Interrupt a share of all spot nodes at once, and record it in `log`."""
        yield self.env.timeout(storm.at_h * 3600)
        # Starting nodes are spared, as no Pod works on them yet.
        spot = [node for node in self.nodes() if node.pool.spec.loss_per_h is not None and node.booted.triggered]
        nodes = [node for node in spot if not node.has_notice]
        chosen = random.Random(f"{self.seed}:storm:{number}").sample(nodes, round(storm.share * len(nodes)))
        log.append({"at_s": self.env.now, "lost": len(chosen), "of": len(nodes)})
        for node in chosen:
            self.env.process(self._interrupt(node))

    def _start(self, pod: SimulatedPod) -> SimPyProcess:
        """Wait for a node and for Ray on it."""
        pod.is_created = True
        self.num_created += 1
        self.max_pods = max(self.max_pods, self.num_created - self.num_ended)
        self._place(pod)
        yield pod.bound
        assert pod.node is not None
        yield pod.node.booted
        yield self.env.timeout(self.rates.start_s)
        if not pod.is_ended:
            pod.is_working, pod.ready_at = True, self.env.now
            pod.ready.succeed()

    def _place(self, pod: SimulatedPod) -> None:
        pool = self.pools[pod.group.pool]
        node = next((node for node in pool.nodes.values() if node.has_room(pod.group.size)), None)
        if node is None and len(pool.nodes) < pool.spec.limit:
            node = self._order(pool)
        if node is None:
            pool.waiting.append(pod)
        else:
            self._bind(node, pod)

    def _bind(self, node: SimulatedNode, pod: SimulatedPod) -> None:
        node.take(pod.group.size)
        node.pods.add(pod)
        pod.node, pod.bound_at = node, self.env.now
        pod.bound.succeed()
        self.changed.add(node)

    def _order(self, pool: NodePool) -> SimulatedNode:
        node = SimulatedNode(self.env, next(self._numbers), pool)
        pool.nodes[node.number] = node
        pool.max_nodes = max(pool.max_nodes, len(pool.nodes))
        self.max_nodes = max(self.max_nodes, sum(len(pool.nodes) for pool in self.pools.values()))
        self.env.process(self._life(node))
        return node

    def _life(self, node: SimulatedNode) -> SimPyProcess:
        spec = node.pool.spec
        yield self.env.timeout(spec.startup_s)
        node.booted.succeed()
        if spec.loss_per_h:
            # The exponential distribution has no memory, as spot capacity is taken back for reasons outside of the
            # node. Its seed is the node's, so that a change elsewhere in the scenario does not move every loss.
            lifetime = random.Random(f"{self.seed}:life:{node.number}").expovariate(spec.loss_per_h / 3600)
            yield self.env.timeout(lifetime)
            yield from self._interrupt(node)

    def _interrupt(self, node: SimulatedNode) -> SimPyProcess:
        """Give two minutes of notice, in which the Pods of the node end and it takes no new ones, then remove it."""
        # A node that is gone, or has received its notice already, is not interrupted twice.
        if node.has_notice or node.number not in node.pool.nodes:
            return
        node.has_notice = True
        for pod in node.pods:
            pod.noticed.succeed()
        yield self.env.timeout(NOTICE_S)
        assert not node.pods
        self.num_lost += 1
        self._remove(node)

    def _remove_if_idle(self, node: SimulatedNode) -> SimPyProcess:
        since = node.idle_since = self.env.now
        yield self.env.timeout(node.pool.spec.idle_s)
        # If a Pod came meanwhile, it is still there, or it has left again and `idle_since` has changed.
        is_idle = not node.pods and node.idle_since == since and not node.has_notice
        if is_idle and node.number in node.pool.nodes:
            self._remove(node)

    def _remove(self, node: SimulatedNode) -> None:
        pool = node.pool
        del pool.nodes[node.number]
        pool.removed_s += self.env.now - node.ordered_at
        waiting, pool.waiting = pool.waiting, []
        for pod in waiting:
            self._place(pod)  # the limit allows another node now

    def _charge(self, pod: SimulatedPod, node: SimulatedNode) -> None:
        """Charge a Pod's run for its share of the node: of its GPUs if it has any, otherwise of its CPUs."""
        # GPUs decide what a GPU machine costs; its cores are not sold twice.
        spec, index = node.pool.spec, 2 if node.pool.spec.gpus else 0
        seconds, share = self.env.now - pod.bound_at, pod.group.size[index] / spec.size[index]
        self.charged_usd[pod.run] += seconds / 3600 * spec.price_usd_h * share
        self.gpu_s[pod.run] += seconds * pod.group.size[2]
