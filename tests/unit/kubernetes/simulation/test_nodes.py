"""Nodes: as many are ordered as the Pods fill, idle ones are removed, and every cent belongs to a run or to nobody."""

import pytest
import simpy

from emoji_ldm.kubernetes.simulation.job_model import HEAD
from emoji_ldm.kubernetes.simulation.nodes import NodeFleet, SimulatedPod
from emoji_ldm.kubernetes.simulation.scenario import StartRates, parse
from tests.bench.simulate import ray_clusters, ten_thousand_pods
from tests.unit.kubernetes.simulation.small_scenarios import simulate, small


def test_no_more_nodes_are_ordered_than_the_pods_fill():
    simulation = simulate(small(work={"copies": 4}))
    assert simulation.fleet.max_nodes == 4 + 1  # eight workers per GPU node; the four heads share another node


def test_an_idle_node_is_removed_after_its_idle_time():
    values = small()
    on_cpu = {"w": {"pool": "cpu", "cpu": 8, "memory_gib": 32, "min_replicas": 1}}
    values["work"]["longer"] = {**values["work"]["caption"], "groups": on_cpu}
    simulation = simulate(values)
    run, longer = simulation.every_run
    assert longer.ended_at > run.ended_at + 2 * 300
    # The GPU node lives from shortly after the submission until idle_s after the end of the only job that uses it.
    lived_s = simulation.fleet.pools["gpu"].node_s(simulation.env.now)
    assert lived_s - (run.ended_at - run.submitted_at) == pytest.approx(300, abs=5)


def test_the_bill_is_nodes_times_time_and_a_job_pays_for_the_share_that_it_uses():
    values = small(group={"min_replicas": 4}, work={"total": 400_000})
    simulation = simulate(values)
    fleet, now = simulation.fleet, simulation.env.now
    hours = {name: pool.node_s(now) / 3600 for name, pool in fleet.pools.items()}
    assert fleet.billed_usd() == pytest.approx(hours["cpu"] * 1.0 + hours["gpu"] * 16.0)
    # Half of the GPU node is idle all the time, and the head has an eighth of its own.
    assert fleet.charged_usd["caption"] == pytest.approx(hours["gpu"] * 8.0 + hours["cpu"] / 8, rel=0.001)


@pytest.mark.parametrize(
    ("concurrency", "rate", "ends_s"), [(1, 1.0, [3.0, 6.0]), (2, 1e9, [1.0, 1.0]), (2, 0.5, [7.0, 9.0])]
)
def test_pods_are_made_no_faster_than_reconcilers_and_the_api_allow(concurrency, rate, ends_s):
    env = simpy.Environment()
    rates = StartRates(reconcile_concurrency=concurrency, api_pods_per_s=rate)
    fleet, ended = NodeFleet(env, parse(small()).pools, rates, 0), []
    for _ in ends_s:
        pods = [SimulatedPod(env, "run", HEAD) for _ in range(2)]
        env.process(fleet.create(1.0, pods)).callbacks.append(lambda _: ended.append(env.now))
    env.run(20)
    assert ended == pytest.approx(ends_s, abs=1e-6)


@pytest.mark.slow
def test_kuberays_published_figures_are_met_by_the_rates_that_they_set_and_predicted_by_them():
    assert ten_thousand_pods() == pytest.approx(200, rel=0.01)
    assert ray_clusters(1_000) == pytest.approx(268.9, rel=0.01)
    assert ray_clusters(5_000) == pytest.approx(1266.9, rel=0.05)


def test_at_the_limit_of_its_pool_an_elastic_job_works_with_what_it_has_and_says_so():
    values = small(work={"elastic": True, "total": 400_000}, group={"max_replicas": 100}, days=0.01)
    values["queues"]["batch"]["nominal"]["gpu"]["nvidia.com/gpu"] = 1000
    values["pools"]["gpu"] |= {"limit": 2, "cpu": 80}
    (run,) = simulate(values).every_run
    assert run.stage == "running" and run.limit == "nodes of gpu"
    assert run.reason == "the limit of nodes of gpu is in use: nvidia.com/gpu 1 wanted, 0 of 16 free"
