"""Spot interruptions: of single nodes at random, and storms that interrupt a share of all spot nodes at once.

All randomness is keyed by the seed and the number of the node or storm, not drawn from one shared stream. Thus a change
of one rate or one more job does not move every other interruption, and two scenarios can be compared.
"""

from __future__ import annotations

import random

from emoji_ldm.kubernetes.simulation.nodes import NodeFleet, SimulatedNode
from emoji_ldm.kubernetes.simulation.quota import SimPyProcess

NOTICE_S = 120.0  # between the notice and the loss of an EC2 spot machine


def spot_lifetime(fleet: NodeFleet, node: SimulatedNode) -> SimPyProcess:
    """Interrupt a spot node after an exponentially distributed time, so that its age has no influence."""
    if node.pool.spec.spot and node.pool.spec.loss_per_h:
        # The exponential distribution has no memory, as spot capacity is taken back for reasons outside of the node.
        rng = random.Random(f"{fleet.seed}:life:{node.number}")
        yield fleet.env.timeout(rng.expovariate(node.pool.spec.loss_per_h / 3600))
        yield from interrupt(fleet, node)


def interrupt(fleet: NodeFleet, node: SimulatedNode) -> SimPyProcess:
    """Give two minutes of notice, in which the node takes no new Pods and its Pods save or drain, then remove it."""
    # A node that is gone, or has received its notice already, is not interrupted twice.
    if not node.ready:
        return
    node.ready = False
    # A copy, because owners may end Pods while they are notified.
    for pod in list(node.pods.values()):
        pod.owner.interrupted(pod)
    yield fleet.env.timeout(NOTICE_S)
    fleet.num_lost += 1
    for pod in list(node.pods.values()):
        pod.owner.end(pod, "lost with its spot node")
    fleet.remove(node)


def spot_storm(fleet: NodeFleet, number: int, at_s: float, share: float, log: list[dict[str, float]]) -> SimPyProcess:
    """Interrupt a share of all spot nodes at once, and record it in `log`."""
    yield fleet.env.timeout(at_s)
    # Booting nodes are spared, as they have no Pods yet.
    nodes = [node for node in fleet.nodes() if node.ready and node.pool.spec.spot]
    chosen = random.Random(f"{fleet.seed}:storm:{number}").sample(nodes, round(share * len(nodes)))
    log.append({"at_s": fleet.env.now, "lost": len(chosen), "of": len(nodes)})
    for node in chosen:
        fleet.env.process(interrupt(fleet, node))
