"""What spot losses do to gangs, elastic jobs and services, and to the time that Kueue gives them."""

import pytest

from emoji_ldm.kubernetes.simulation.job_model import RunPhase
from tests.unit.kubernetes.simulation.small_scenarios import on_spot, service_on_spot, simulate, small


def test_a_job_that_was_complete_in_time_is_not_evicted_for_a_worker_that_it_loses_then():
    """The first timeout ends at 5 minutes, between the loss of a worker and its successor."""
    values = on_spot([(230, 0.3)], elastic=True, total=100_000, checkpoint_s=60)
    values["pools"]["gpu"]["startup_s"] = 90
    (run,) = simulate(values).every_run
    assert run.begun_at < 230 and run.num_interrupted == 2
    assert run.num_evicted == 0 and run.phase is RunPhase.DONE


def test_the_second_loss_of_a_gang_has_a_recovery_time_of_its_own():
    values = on_spot([(1000, 0.15), (1295, 0.15)], {"recovery_s": 300, "pods_ready_s": 600}, total=200_000)
    (run,) = simulate(values).every_run
    assert run.num_interrupted == 2 and run.num_restarts == 2 and run.num_evicted == 0


def test_a_gang_that_stays_broken_is_evicted_when_its_recovery_time_is_over():
    values = on_spot([(3600, 0.15)], {"recovery_s": 300, "pods_ready_s": 4000}, total=200_000)
    values["pools"]["gpu"]["startup_s"] = 2000
    (run,) = simulate(values).every_run
    assert run.num_evicted == 1 and run.phase is RunPhase.DONE


def test_a_gang_that_reads_its_checkpoint_loses_no_work_of_that_time():
    """It goes on at about 1495 s: in the minute from the second notice to the end there is half a minute of work."""
    values = on_spot([(1000, 0.15), (1460, 0.15)], {"recovery_s": 3000}, total=200_000, grace_s=60, restart_s=300)
    (run,) = simulate(values).every_run
    assert run.num_interrupted == 2
    assert 0 < run.progress.lost - 60 * 40 < 40 * 40


def test_an_elastic_job_loses_no_more_than_the_shards_of_the_workers_that_it_lost():
    values = small(work={"elastic": True, "checkpoint_s": 600}, storms=[{"at_h": 0.25, "share": 0.5}])
    values["pools"]["gpu"] |= {"spot": True, "cpu": 9}  # one worker a node
    (run,) = (simulation := simulate(values)).every_run
    assert simulation.storms == [{"at_s": 900.0, "lost": 4, "of": 8}]
    assert run.num_interrupted == 4 and run.num_evicted == 0
    assert 0 < run.progress.lost <= 4 * 600 * 5.0
    assert run.progress.done == 40_000


def test_a_disruption_budget_bounds_the_replicas_that_drain_at_once():
    """Two of four get their notice in one moment: the second stays until the first has a successor."""
    simulation = simulate(service_on_spot([(3600, 0.5)], min_available=3))
    (run,) = simulation.every_run
    assert run.num_interrupted == 2
    assert run.num_below_minimum == 0 and simulation.invariants.hold, simulation.invariants.examples


def test_a_service_receives_requests_while_it_is_down():
    values = service_on_spot([(3600, 1.0)])
    values["pools"]["gpu"] |= {"static": 0, "limit": 20, "startup_s": 1000}
    (run,) = simulate(values).every_run
    assert run.phase is RunPhase.DONE
    assert run.progress.requested == pytest.approx(4 * 0.2 * 86400)
    assert run.progress.done < run.progress.requested - 4 * 900


def test_a_service_keeps_its_minimum_when_half_of_the_spot_nodes_go():
    values = small(storms=[{"at_h": 2, "share": 0.5}], work={"elastic": True, "total": 900_000, "checkpoint_s": 60})
    values["pools"]["gpu"] |= {"spot": True, "cpu": 9}
    values["pools"]["stay"] = {**values["pools"]["gpu"], "spot": False}
    values["queues"]["batch"]["nominal"]["stay"] = values["queues"]["batch"]["nominal"]["gpu"]
    worker = {"cpu": 4, "memory_gib": 16, "gpus": 1}
    values["work"].append({
        "name": "serve", "queue": "batch", "priority": 1_000_000, "load_per_s": 4, "rate": 1.0, "days": 0.2,
        "min_available": 2,
        "groups": [
            {"name": "fixed", "flavors": ["stay"], **worker, "min_replicas": 2},
            {"name": "spot", "flavors": ["gpu"], **worker, "min_replicas": 0, "max_replicas": 6},
        ],
    })  # fmt: skip
    simulation = simulate(values)
    caption, serve = simulation.every_run
    assert simulation.fleet.num_lost > 0 and caption.num_interrupted + serve.num_interrupted > 0
    assert serve.num_below_minimum == 0 and simulation.invariants.hold, simulation.invariants.examples
    assert caption.phase is RunPhase.DONE and not caption.missing_since  # all replaced
