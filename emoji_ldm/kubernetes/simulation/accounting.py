"""The cost of a simulation: nodes are billed, Pods are charged their share of them, and usage is sampled over time.

A node is billed from its order to its removal. Each Pod is charged for the share of its node that it occupied, when it
ends. The difference of both sums is the cost of idle capacity: nodes that boot, wait or are not full.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from emoji_ldm.kubernetes.simulation.nodes import NodeFleet, SimulatedNode, SimulatedPod

MAX_SAMPLES = 600
FIRST_INTERVAL_S = 15.0  # between samples; doubled whenever there are too many


@dataclass(frozen=True)
class UsageSample:
    """The state of the cluster at one moment."""

    time_s: float
    nodes: dict[str, int]
    gpus_there: int
    gpus_used: int
    pods: int
    pending: int
    cost_usd: float


class CostLedger:
    """Cost in US dollars, and samples of usage. What is billed and not charged to a run was idle."""

    def __init__(self, fleet: NodeFleet) -> None:
        self.fleet = fleet
        self.samples: list[UsageSample] = []
        self.interval_s = FIRST_INTERVAL_S
        self.billed_usd = 0.0  # for nodes that were removed
        self.charged_usd: defaultdict[str, float] = defaultdict(float)  # by run
        self.gpu_s: defaultdict[str, float] = defaultdict(float)  # by run
        self.node_s: defaultdict[str, float] = defaultdict(float)  # by pool
        self.max_pods = self.max_nodes = 0
        fleet.on_gone.append(self.bill)

    def sample(self, num_pending_runs: int) -> None:
        """Record the state of the cluster."""
        pools = self.fleet.pools.values()
        nodes = {pool.name: len(pool.nodes) for pool in pools}
        used = sum(node.pool.size[2] - node.free[2] for node in self.fleet.nodes())
        # Pods without a node wait in the queues of their pool, so both together are all Pods that exist.
        pods = sum(len(node.pods) for node in self.fleet.nodes()) + sum(1 for pool in pools for _ in pool.pending())
        there = sum(pool.size[2] * nodes[pool.name] for pool in pools)
        now = self.fleet.env.now
        self.samples.append(UsageSample(now, nodes, there, used, pods, num_pending_runs, self.total_usd()))
        self.max_pods, self.max_nodes = max(self.max_pods, pods), max(self.max_nodes, sum(nodes.values()))
        # The length of a run is not known in advance. Halving the samples and doubling the interval keeps their number
        # between MAX_SAMPLES / 2 and MAX_SAMPLES, evenly spaced.
        if len(self.samples) > MAX_SAMPLES:
            self.samples, self.interval_s = self.samples[::2], 2 * self.interval_s

    def total_usd(self) -> float:
        return self.billed_usd + sum(self._price(node) for node in self.fleet.nodes())

    def bill(self, node: SimulatedNode) -> None:
        """Add the price of a node, from its order until now."""
        self.billed_usd += self._price(node)
        self.node_s[node.pool.name] += self.fleet.env.now - node.ordered_at

    # A listener of `on_pod_ended`: a Pod is charged once, when its whole time on the node is known.
    def charge(self, pod: SimulatedPod) -> None:
        """Charge a Pod's run for its share of the node: of its GPUs if it has any, otherwise of its CPUs."""
        if pod.node is None:
            return
        pool, size = pod.node.pool, pod.group.size
        # GPUs decide what a GPU machine costs; its cores are not sold twice.
        share = size[2] / pool.size[2] if pool.size[2] else size[0] / pool.size[0]
        seconds = self.fleet.env.now - pod.bound_at
        self.charged_usd[pod.owner.name] += seconds / 3600 * pool.spec.price_usd_h * share
        self.gpu_s[pod.owner.name] += seconds * size[2]

    def close(self) -> None:
        """Bill and charge for nodes and Pods that still exist."""
        for node in self.fleet.nodes():
            # Nodes and Pods stay where they are, so a second call would count them twice.
            for pod in node.pods.values():
                self.charge(pod)
            self.bill(node)

    def _price(self, node: SimulatedNode) -> float:
        return (self.fleet.env.now - node.ordered_at) / 3600 * node.pool.spec.price_usd_h
