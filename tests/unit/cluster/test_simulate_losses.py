"""What spot losses do in the simulator: to gangs, elastic jobs and services, and to the time that Kueue gives them."""

import pytest

from emoji_ldm.cluster.simulate.groups import Stage
from emoji_ldm.cluster.simulate.results import results
from tests.unit.cluster.simulated import simulate, small


def on_spot(storms, rates=None, **work):
    """One job with eight workers, each on a spot node of its own."""
    values = small(storms=[{"at_h": at / 3600, "share": share} for at, share in storms], work=work)
    values["rates"] |= rates or {}
    values["pools"]["gpu"] |= {"spot": True, "cpu": 9, "startup_s": 20, "limit": 20}
    return values


def test_a_job_that_was_whole_in_time_is_not_evicted_for_a_worker_it_loses_then():
    """The first timeout ends at 5 minutes, between the loss of a worker and its successor."""
    values = on_spot([(230, 0.3)], elastic=True, total=100_000, checkpoint_s=60)
    values["pools"]["gpu"]["startup_s"] = 90
    (run,) = simulate(values).every
    assert run.first_ready_at < 230 and run.num_lost == 2
    assert run.num_evicted == 0 and run.stage is Stage.DONE


def test_the_second_loss_of_a_gang_has_a_recovery_time_of_its_own():
    values = on_spot([(1000, 0.15), (1295, 0.15)], {"recovery_s": 300, "pods_ready_s": 600}, total=200_000)
    (run,) = simulate(values).every
    assert run.num_lost == 2 and run.num_restarts == 2 and run.num_evicted == 0


def test_a_gang_that_stays_broken_is_evicted_when_its_recovery_time_is_over():
    values = on_spot([(3600, 0.15)], {"recovery_s": 300, "pods_ready_s": 4000}, total=200_000)
    values["pools"]["gpu"]["startup_s"] = 2000
    (run,) = simulate(values).every
    assert run.num_evicted == 1 and run.stage is Stage.DONE


def test_a_gang_that_reads_its_checkpoint_loses_no_work_of_that_time():
    """It goes on at about 1495 s: of the minute from the second notice to the end there is half a minute of work."""
    values = on_spot([(1000, 0.15), (1460, 0.15)], {"recovery_s": 3000}, total=200_000, grace_s=60, restart_s=300)
    (run,) = simulate(values).every
    assert run.num_lost == 2
    assert 0 < run.lost_work - 60 * 40 < 40 * 40


def service(storms, **work):
    """Four replicas, each on a spot node of its own, and as many nodes to spare."""
    values = on_spot(storms, {"images_gb": {"cpu": 0.1, "gpu": 0.1}}, total=None, load_per_s=4, rate=2.0, days=0.2,
                     **work)  # fmt: skip
    values["pools"]["gpu"] |= {"static": 8, "limit": 8}
    values["work"][0]["groups"][0]["least"] = 4
    return values


def test_a_budget_lets_go_no_more_at_once_than_it_allows():
    """Two of four get their notice in one moment: the second stays until the first has a successor."""
    world = simulate(service([(3600, 0.5)], min_available=3))
    (run,) = world.every
    assert run.num_lost == 2
    assert run.below == 0 and world.laws.hold, world.laws.examples


def test_a_service_that_is_down_is_asked_all_the_same():
    values = service([(3600, 1.0)], head_flavors=["gpu"])
    values["pools"]["gpu"] |= {"static": 0, "limit": 20, "startup_s": 1000}
    values["rates"]["recovery_s"] = 3000
    (run,) = simulate(values).every
    assert run.num_restarts == 1 and run.stage is Stage.DONE
    assert run.asked == pytest.approx(4 * 0.2 * 86400)
    assert run.served < run.asked - 4 * 1000


def test_the_work_of_a_gang_goes_with_its_head():
    values = on_spot([(1000, 1.0)], {"recovery_s": 3000}, total=200_000, head_flavors=["gpu"], grace_s=100)
    (run,) = simulate(values).every
    assert run.num_restarts and run.stage is Stage.DONE
    assert run.lost_work == pytest.approx(100 * 40)


def test_who_still_waits_has_waited():
    values = small(days=0.02)
    values["queues"]["batch"]["nominal"]["gpu"]["nvidia.com/gpu"] = 4
    assert results(simulate(values))["work"][0]["queued_s"] == pytest.approx(0.02 * 86400)
