"""KubeRay's operator: reconcilers work side by side, under one API rate."""

import pytest
import simpy

from emoji_ldm.kubernetes.simulation.control_plane import KubeRayOperator
from emoji_ldm.kubernetes.simulation.scenario import ControlPlaneRates


@pytest.mark.parametrize(
    ("concurrency", "api_pods_per_s", "ends_s"),
    [(1, 1000.0, [3.0, 6.0]), (2, 1000.0, [3.0, 3.001]), (2, 0.5, [6.0, 8.0])],
)
def test_pods_are_made_no_faster_than_reconcilers_and_the_api_allow(concurrency, api_pods_per_s, ends_s):
    env, made = simpy.Environment(), []
    rates = ControlPlaneRates(reconcile_concurrency=concurrency, pod_s=1.0, api_pods_per_s=api_pods_per_s)
    operator = KubeRayOperator(env, rates)
    for name in ("a", "b"):
        env.process(operator.reconcile(1.0, [lambda name=name: made.append((name, env.now))] * 2))
    env.run()
    assert [max(at for name, at in made if name == wanted) for wanted in ("a", "b")] == pytest.approx(ends_s, abs=0.01)
