"""The invariants hold in random simulations, and a violation of each of them is seen."""

import json

import pytest

from emoji_ldm.kubernetes.simulation.invariants import INVARIANTS
from emoji_ldm.kubernetes.simulation.job_model import RunPhase
from emoji_ldm.kubernetes.simulation.nodes import SimulatedPod
from emoji_ldm.kubernetes.simulation.report import summarize
from emoji_ldm.kubernetes.simulation.scenario import parse
from emoji_ldm.kubernetes.simulation.simulation import ClusterSimulation
from tests.unit.kubernetes.simulation.small_scenarios import random_scenario, simulate, small


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 10))])
def test_in_random_scenarios_all_invariants_hold(seed):
    simulation = simulate(random_scenario(seed))
    checker = simulation.invariants
    assert checker.hold, (checker.violations, checker.examples)
    assert checker.num_created == checker.num_ended + sum(len(run.every_pod()) for run in simulation.every_run)
    assert sum(simulation.ledger.charged_usd.values()) <= simulation.ledger.billed_usd + 1e-6
    for run in simulation.every_run:
        assert run.phase is not RunPhase.PENDING or run.workload.reason
        assert run.phase is not RunPhase.DONE or run.spec.is_service or run.progress.done == run.spec.total


def test_the_same_seed_gives_the_same_simulation_and_another_one_another():
    values = [random_scenario(3) | {"seed": seed, "days": 0.1} for seed in (3, 3, 4)]
    first, again, other = (json.dumps(summarize(simulate(value))) for value in values)
    assert first == again != other


def tampered(invariant):
    """A simulation in the middle of its work, with one obj made wrong."""
    simulation = ClusterSimulation(parse(small()))
    simulation.start()
    simulation.env.run(400)
    (run,) = simulation.every_run
    assert run.phase is RunPhase.RUNNING and simulation.invariants.hold
    pod = run.every_pod()[0]
    match invariant:
        case "quota":
            run.workload.held["gpu", "nvidia.com/gpu"] += 1000
        case "pods beyond quota":
            run.workload.held["gpu", "nvidia.com/gpu"] -= 1
        case "partial gangs":
            pod.phase = "pending"
        case "no reason":
            run.phase = RunPhase.PENDING
        case "nodes overfull":
            simulation.fleet.changed.add(pod.node)
            for number in range(1, 9):
                pod.node.pods[-number] = SimulatedPod(-number, run, pod.group, "gpu", None)
        case "pool limits":
            simulation.fleet.pools["gpu"].spec.limit = 0
        case "pods ended twice":
            run.end(pod, "test")
            for notify in simulation.plane.on_pod_ended:
                notify(pod)
        case "min available":
            run.num_below_minimum = 1
    return simulation.invariants


@pytest.mark.parametrize("invariant", INVARIANTS)
def test_a_violation_is_seen(invariant):
    checker = tampered(invariant)
    checker.check(15.0)
    checker.check_at_end()
    assert checker.violations[invariant] and invariant in checker.examples
