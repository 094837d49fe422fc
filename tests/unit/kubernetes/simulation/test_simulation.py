"""The laws hold in random simulations, and a violation of each of them is seen."""

import json
import math

import pytest

from emoji_ldm.kubernetes.simulation.nodes import SimulatedPod
from emoji_ldm.kubernetes.simulation.report import summarize
from emoji_ldm.kubernetes.simulation.scenario import parse
from emoji_ldm.kubernetes.simulation.simulation import LAWS, ClusterSimulation
from tests.unit.kubernetes.simulation.small_scenarios import random_scenario, simulate, small


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 20))])
def test_in_random_scenarios_all_laws_hold(seed):
    simulation = simulate(random_scenario(seed))
    for run in simulation.every_run:
        assert run.stage != "done" or run.spec.is_service or run.done == run.spec.total
        # No run is faster than all its workers together.
        speed = run.spec.rate * sum(group.maximum for group in run.spec.groups.values())
        assert run.stage != "done" or run.ended_at - run.begun_at >= run.done / speed * (1 - 1e-9)


def test_the_same_seed_gives_the_same_simulation_and_another_one_another():
    values = [random_scenario(3) | {"seed": seed, "days": 0.1} for seed in (3, 3, 4)]
    first, again, other = (json.dumps(summarize(simulate(value))) for value in values)
    assert first == again != other


def test_it_ends_with_the_last_run():
    simulation = simulate(small(work={"copies": 3}))
    assert [run.name for run in simulation.every_run] == ["caption-1", "caption-2", "caption-3"]
    assert max(run.ended_at for run in simulation.every_run) == simulation.env.now < 3600


def test_it_ends_when_the_days_are_over_and_charges_for_what_still_runs():
    simulation = simulate(small(days=0.01))
    (run,) = simulation.every_run
    assert simulation.env.now == 864 and run.stage == "running"
    assert run.done == pytest.approx(40 * (864 - run.begun_at))
    assert simulation.fleet.charged_usd["caption"] == pytest.approx(16 * 864 / 3600, rel=0.02)


def test_gangs_that_cannot_all_be_placed_are_placed_one_after_the_other():
    """There is quota for all six of them, and nodes for one and a half."""
    values = small(work={"copies": 6})
    values["pools"]["gpu"] |= {"limit": 12, "cpu": 9}
    runs = simulate(values).every_run
    assert all(run.stage == "done" for run in runs)
    assert sorted(run.begun_at for run in runs)[1] > min(run.ended_at for run in runs)


def tampered(law):
    """A simulation in the middle of its work, with one thing made wrong."""
    simulation = ClusterSimulation(parse(small()))
    simulation.start()
    simulation.env.run(400)
    (run,) = simulation.every_run
    assert run.stage == "running" and not any(simulation.violations.values())
    pod = run.pods["w"][0]
    match law:
        case "quota":
            simulation.admission.queues["batch"].nominal["gpu", "nvidia.com/gpu"] = 7
        case "nodes":
            simulation.fleet.changed.add(pod.node)
            pod.node.pods.add(SimulatedPod(simulation.env, "other", pod.group))
        case "limits":
            simulation.fleet.pools["gpu"].spec.limit = 0
        case "gangs":
            pod.is_working = False
        case "reasons":
            run.admitted_at = run.begun_at = math.inf
        case "pods":
            simulation.fleet.num_ended += 1
        case "work":
            run.done += 1_000_000
        case "money":
            simulation.fleet.charged_usd["caption"] += 1_000
    return simulation


@pytest.mark.parametrize("law", LAWS)
def test_a_violation_is_seen(law):
    simulation = tampered(law)
    simulation.check()
    simulation.fleet.pools["gpu"].waiting.clear()
    if law != "nodes":
        simulation.check_at_end()
    assert simulation.violations[law] and law in simulation.examples
