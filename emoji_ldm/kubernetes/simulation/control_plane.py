"""What all runs share: KubeRay's operator, Kueue's admission, the nodes, and who is told about Pods."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count

import simpy

from emoji_ldm.kubernetes.simulation.admission import GangAdmission
from emoji_ldm.kubernetes.simulation.nodes import NodeFleet, SimulatedPod
from emoji_ldm.kubernetes.simulation.quota import SimPyProcess
from emoji_ldm.kubernetes.simulation.scenario import ControlPlaneRates


class KubeRayOperator:
    """Reconciles so many objects at once and creates Pods one by one, all reconcilers under one API rate."""

    def __init__(self, env: simpy.Environment, rates: ControlPlaneRates) -> None:
        self.env, self.rates = env, rates
        self.reconcilers = simpy.Resource(env, rates.reconcile_concurrency)
        self._next_call = 0.0

    def reconcile(self, fixed_s: float, calls: Iterable[Callable[[], None]]) -> SimPyProcess:
        """So much work besides Pods, then one API call for each Pod."""
        with self.reconcilers.request() as slot:
            yield slot
            yield self.env.timeout(fixed_s)
            for call in calls:
                # Each reconciler waits for its own call, and all of them share the API rate: a call may not begin
                # before the slot that the last one left.
                when = max(self.env.now + self.rates.pod_s, self._next_call)
                self._next_call = when + 1 / self.rates.api_pods_per_s
                yield self.env.timeout(when - self.env.now)
                call()


@dataclass
class ControlPlane:
    """What all runs share."""

    env: simpy.Environment
    rates: ControlPlaneRates
    fleet: NodeFleet
    admission: GangAdmission
    operator: KubeRayOperator
    on_pod_created: list[Callable[[SimulatedPod], None]] = field(default_factory=list)
    on_pod_ended: list[Callable[[SimulatedPod], None]] = field(default_factory=list)
    pod_numbers: count[int] = field(default_factory=count)
