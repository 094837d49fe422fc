"""Work as a fluid: ceilings, checkpoints, and a service's load over the day."""

import pytest
import simpy

from emoji_ldm.kubernetes.simulation.scenario import WorkloadSpec, parse
from emoji_ldm.kubernetes.simulation.throughput import WorkProgress, load_per_s
from tests.unit.kubernetes.simulation.small_scenarios import simulate, small


def test_the_ceiling_of_a_job_bounds_it_whatever_its_size():
    (run,) = simulate(small(work={"ceiling": 10})).every_run
    assert run.ended_at - run.begun_at == pytest.approx(4000)


def test_a_gang_goes_back_to_its_last_checkpoint():
    env = simpy.Environment()
    progress = WorkProgress(env, parse(small(work={"checkpoint_s": 100})).work[0])
    progress.begin()
    progress.set_speed(2.0)
    env.run(250)
    progress.settle()
    progress.lose_since_save()
    assert (progress.done, progress.lost, progress.speed) == (400, 100, 0)


def test_the_load_of_a_service_is_highest_in_the_evening():
    worker = {"name": "s", "flavors": ["gpu"], "cpu": 1, "memory_gib": 1, "min_replicas": 1}
    spec = WorkloadSpec(name="serve", queue="batch", load_per_s=2, swing=0.5, rate=1, groups=[worker])
    assert load_per_s(spec, 18 * 3600) == pytest.approx(3)
    assert load_per_s(spec, 6 * 3600) == pytest.approx(1)
