"""A simulation ends with its last run, or when the scenario's days are over."""

from emoji_ldm.kubernetes.simulation.job_model import RunPhase
from tests.unit.kubernetes.simulation.small_scenarios import simulate, small


def test_it_ends_with_the_last_run():
    simulation = simulate(small(work={"copies": 3}))
    assert [run.name for run in simulation.every_run] == ["caption-1", "caption-2", "caption-3"]
    assert all(run.phase is RunPhase.DONE for run in simulation.every_run)
    assert max(run.ended_at for run in simulation.every_run) <= simulation.env.now < 3600


def test_it_ends_when_the_days_are_over():
    simulation = simulate(small(days=0.01))
    assert simulation.env.now == 864
    assert simulation.every_run[0].phase is RunPhase.RUNNING
