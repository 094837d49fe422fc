"""What a simulation cost and how it went: samples over time, money by run, and what was nobody's."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from emoji_ldm.cluster.simulate.groups import Stage
from emoji_ldm.cluster.simulate.nodes import Node
from emoji_ldm.cluster.simulate.pods import Pod
from emoji_ldm.cluster.simulate.progress import settle

if TYPE_CHECKING:
    from emoji_ldm.cluster.simulate.world import World

MOST_SAMPLES = 600
FIRST_S = 15.0  # between samples; doubled whenever there are too many


@dataclass(frozen=True)
class Sample:
    """The cluster at one moment."""

    time_s: float
    nodes: dict[str, int]
    gpus_there: int
    gpus_used: int
    pods: int
    pending: int
    cost_usd: float


class Books:
    """Money and samples."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.samples: list[Sample] = []
        self.gap_s = FIRST_S
        self.billed_usd = 0.0  # of nodes that are gone
        self.charged_usd = 0.0  # to runs
        self.node_s: dict[str, float] = {}
        self.storms: list[tuple[float, int, int]] = []  # when, nodes lost, spot nodes there were
        self.most_pods = self.most_nodes = 0

    def begin(self) -> None:
        self.sample()
        self.world.clock.after(self.gap_s, self._tick)

    def _tick(self) -> None:
        self.sample()
        if len(self.samples) > MOST_SAMPLES:
            self.samples, self.gap_s = self.samples[::2], 2 * self.gap_s
        self.world.clock.after(self.gap_s, self._tick)

    def sample(self) -> None:
        """Look at everything, the laws included."""
        world, now = self.world, self.world.clock.now
        nodes = {name: len(pool.nodes) for name, pool in world.fleet.pools.items()}
        there = sum(pool.size[2] * nodes[name] for name, pool in world.fleet.pools.items())
        free = sum(node.free[2] if node.phase != "booting" else node.pool.size[2] for node in world.fleet.nodes())
        pods = sum(run.live for run in world.every)
        pending = sum(run.stage is Stage.PENDING for run in world.every)
        self.samples.append(Sample(now, nodes, there, there - free, pods, pending, self.total_usd()))
        self.most_pods, self.most_nodes = max(self.most_pods, pods), max(self.most_nodes, sum(nodes.values()))
        world.laws.look()

    def bill(self, node: Node) -> None:
        """A node is gone: it is paid for from its order to its end."""
        seconds = self.world.clock.now - node.born
        self.billed_usd += seconds / 3600 * node.pool.spec.price_usd_h
        self.node_s[node.pool.name] = self.node_s.get(node.pool.name, 0.0) + seconds

    def total_usd(self) -> float:
        now = self.world.clock.now
        running = sum((now - node.born) / 3600 * node.pool.spec.price_usd_h for node in self.world.fleet.nodes())
        return self.billed_usd + running

    def charge(self, pod: Pod) -> None:
        """A Pod pays for its share of its node: of the GPUs where there are some, else of the CPUs."""
        if pod.node is None:
            return
        pool = pod.node.pool
        share = pod.size[2] / pool.size[2] if pool.size[2] else pod.size[0] / pool.size[0]
        seconds = self.world.clock.now - pod.bound_at
        cost = seconds / 3600 * pool.spec.price_usd_h * share
        self.charged_usd += cost
        pod.run.cost_usd += cost
        pod.run.gpu_s += seconds * pod.size[2]

    def close(self) -> None:
        """The end: nodes and Pods that are still there are paid for until now."""
        self.sample()
        for run in self.world.every:
            settle(run)
            for pods in run.pods:
                for pod in pods.values():
                    self.charge(pod)
        for node in self.world.fleet.nodes():
            self.bill(node)
        self.billed = self.billed_usd

    def rows(self) -> list[dict[str, object]]:
        """Samples as plain values."""
        return [asdict(sample) for sample in self.samples]
