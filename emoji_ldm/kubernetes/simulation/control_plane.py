"""What all runs share: KubeRay's operator, Kueue's admission, the nodes, and listeners for the events of Pods."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count

import simpy

from emoji_ldm.kubernetes.simulation.gang_admission import GangAdmission
from emoji_ldm.kubernetes.simulation.nodes import NodeFleet, SimulatedPod
from emoji_ldm.kubernetes.simulation.quota import SimPyProcess
from emoji_ldm.kubernetes.simulation.scenario import ControlPlaneRates


class KubeRayOperator:
    """KubeRay's operator: parallel reconcilers that create Pods one by one, all of them under one API rate.

    At thousands of Pods the operator is the bottleneck, and the order in which it creates them decides which gangs are
    complete early. Two limits explain its published figures: the time per Pod of one reconciler (`pod_s`), and the
    client rate limit that all reconcilers share (`api_pods_per_s`).
    """

    def __init__(self, env: simpy.Environment, rates: ControlPlaneRates) -> None:
        self.env, self.rates = env, rates
        self.reconcilers = simpy.Resource(env, rates.reconcile_concurrency)
        # The earliest time of the next API call of any reconciler: a token bucket without a burst.
        self._next_call = 0.0

    def reconcile(self, fixed_s: float, calls: Iterable[Callable[[], None]]) -> SimPyProcess:
        """Occupy a reconciler for `fixed_s` and then for one API call per Pod, in order."""
        # An object holds its reconciler until its last Pod is created, as KubeRay reconciles one object in one go.
        # Large clusters therefore delay the small ones behind them.
        with self.reconcilers.request() as slot:
            yield slot
            yield self.env.timeout(fixed_s)
            for call in calls:
                # A reconciler makes its calls one after the other, and a call of any reconciler may not start before
                # the shared rate limit allows it.
                when = max(self.env.now + self.rates.pod_s, self._next_call)
                self._next_call = when + 1 / self.rates.api_pods_per_s
                yield self.env.timeout(when - self.env.now)
                call()


@dataclass
class ControlPlane:
    """The components that all runs share, and listeners for the creation and the end of Pods."""

    env: simpy.Environment
    rates: ControlPlaneRates
    fleet: NodeFleet
    admission: GangAdmission
    operator: KubeRayOperator
    on_pod_created: list[Callable[[SimulatedPod], None]] = field(default_factory=list)
    on_pod_ended: list[Callable[[SimulatedPod], None]] = field(default_factory=list)
    pod_numbers: count[int] = field(default_factory=count)
