"""What must hold in every simulation, in random ones; and that each law would be seen to be broken."""

import json

import pytest

from emoji_ldm.cluster.simulate.groups import Stage
from emoji_ldm.cluster.simulate.laws import NAMES_OF_LAWS
from emoji_ldm.cluster.simulate.pods import Pod
from emoji_ldm.cluster.simulate.results import results
from emoji_ldm.cluster.simulate.scenario import parse
from emoji_ldm.cluster.simulate.world import World
from tests.unit.cluster.simulated import chance, simulate, small

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", range(10))
def test_in_random_scenarios_all_laws_hold(seed):
    world = simulate(chance(seed))
    assert world.laws.hold, (world.laws.breaches, world.laws.examples)
    assert world.laws.num_created == world.laws.num_ended + sum(run.live for run in world.every)
    assert world.books.charged_usd <= world.books.billed_usd + 1e-6
    for run in world.every:
        assert run.stage is not Stage.PENDING or run.workload.reason
        assert run.stage is not Stage.DONE or run.work.is_service or run.done == run.work.total


def test_the_same_seed_gives_the_same_simulation_and_another_one_another():
    first, again, other = (json.dumps(results(simulate(chance(3) | {"seed": seed, "days": 0.1}))) for seed in (3, 3, 4))
    assert first == again != other


def test_a_gang_that_cannot_be_placed_gives_its_quota_back_and_waits_longer_each_time():
    values = small(days=1)
    values["pools"]["gpu"]["limit"] = 0
    world = simulate(values)
    (run,) = world.every
    assert run.stage is Stage.DEACTIVATED and run.num_evicted == 5  # backoff_limit 4
    assert run.reason == "deactivated: its Pods were not ready in time 5 times"
    assert run.ended_at >= 5 * 300 + 60 * (1 + 2 + 4 + 8)
    assert world.laws.hold and not world.kueue.holding["batch"]


def test_a_job_evicted_for_pods_that_are_not_ready_says_which_limit_stood_in_the_way():
    values = small(days=400 / 86400)
    values["pools"]["gpu"]["limit"] = 0
    (run,) = simulate(values).every
    assert run.workload.reason == "PodsReadyTimeout: node pool gpu is at its limit of 0 nodes; requeued in 60 s"


def test_a_service_keeps_its_minimum_when_a_tenth_of_the_spot_nodes_goes():
    values = small(storms=[{"at_h": 2, "share": 0.5}], work={"elastic": True, "total": 900_000, "checkpoint_s": 60})
    values["pools"]["gpu"] |= {"spot": True, "cpu": 9}
    values["pools"]["stay"] = {**values["pools"]["gpu"], "spot": False}
    values["queues"]["batch"]["nominal"]["stay"] = values["queues"]["batch"]["nominal"]["gpu"]
    values["work"].append({
        "name": "serve", "queue": "batch", "priority": 1_000_000, "load_per_s": 4, "rate": 1.0, "days": 0.2,
        "min_available": 2,
        "groups": [
            {"name": "fixed", "flavors": ["stay"], "cpu": 4, "memory_gib": 16, "gpus": 1, "least": 2},
            {"name": "spot", "flavors": ["gpu"], "cpu": 4, "memory_gib": 16, "gpus": 1, "least": 0, "most": 6},
        ],
    })  # fmt: skip
    world = simulate(values)
    caption, serve = world.every
    assert world.fleet.num_lost > 0 and caption.num_lost + serve.num_lost > 0
    assert serve.below == 0 and world.laws.hold, world.laws.examples
    assert caption.stage is Stage.DONE and not caption.gaps  # all replaced


def broken(law):
    """A world in the middle of its work, tampered with."""
    world = World(parse(small()))
    world._submit(world.scenario.work[0])
    world.clock.run(400, lambda: False)
    (run,) = world.every
    assert run.stage is Stage.RUNNING and world.laws.hold
    match law:
        case "quota":
            key = ("gpu", "nvidia.com/gpu")
            run.workload.held[key] += 1000
        case "pods beyond quota":
            run.workload.held[("gpu", "nvidia.com/gpu")] -= 1
        case "partial gangs":
            run.num_ready[1] -= 1
        case "no reason":
            run.stage = Stage.PENDING
        case "nodes overfull":
            node = next(node for node in world.fleet.nodes() if node.pool.size[2])
            world.fleet.touched.add(node)
            node.pods |= {-n: Pod(-n, run, 1, "gpu", 0.0) for n in range(1, 9)}
        case "pool limits":
            world.fleet.pools["gpu"].spec.limit = 0
        case "pods ended twice":
            pod = run.every_pod()[0]
            run.end(pod, "test")
            world.laws.ended(pod)
        case "min available":
            run.below = 1
    return world


@pytest.mark.parametrize("law", NAMES_OF_LAWS)
def test_a_broken_law_is_seen(law):
    world = broken(law)
    world.laws.look()
    assert world.laws.breaches[law] and law in world.laws.examples
