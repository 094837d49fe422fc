"""The life of a run, compared with results that can be computed by hand."""

import pytest

from emoji_ldm.kubernetes.simulation.job_model import RunPhase
from tests.unit.kubernetes.simulation.small_scenarios import simulate, small


def test_the_duration_of_a_single_job_is_the_sum_of_its_phases():
    simulation = simulate(small())
    rates, (run,) = simulation.scenario.rates, simulation.every_run
    pending = 2 * rates.cluster_s + 2 * rates.pod_s  # the first worker, after the head, has no node
    bound = pending + rates.provision_batch_s + 90  # one node has room for all eight, which exist by then
    ready = bound + rates.images_gb["gpu"] / rates.pull_gb_s + rates.start_s + rates.join_s
    begun = ready + rates.pod_s + rates.start_s  # of the submitter
    assert run.begun_at == pytest.approx(begun, abs=1e-6)
    assert run.ended_at == pytest.approx(begun + 40_000 / (8 * 5.0), abs=1e-6)


def test_more_quota_never_increases_the_makespan():
    def makespan(gpus):
        values = small(work={"copies": 6})
        values["queues"]["batch"]["nominal"]["gpu"]["nvidia.com/gpu"] = gpus
        return max(run.ended_at for run in simulate(values).every_run)

    times = [makespan(gpus) for gpus in (8, 16, 24, 32, 48, 64)]
    assert times == sorted(times, reverse=True)
    assert times[0] > 5 * (40_000 / 40)  # one after the other


def test_a_job_is_submitted_when_the_job_that_it_follows_has_ended():
    values = small()
    values["work"].append({**values["work"][0], "name": "next", "after": ["caption"]})
    first, following = simulate(values).every_run
    assert first.ended_at < following.submitted_at < first.ended_at + 1


def test_a_gang_that_cannot_be_placed_frees_its_quota_and_backs_off_exponentially():
    values = small(days=1)
    values["pools"]["gpu"]["limit"] = 0
    simulation = simulate(values)
    (run,) = simulation.every_run
    assert run.phase is RunPhase.DEACTIVATED and run.num_evicted == 5  # backoff_limit 4
    assert run.reason == "deactivated: its Pods were not ready in time 5 times"
    assert run.ended_at >= 5 * 300 + 60 * (1 + 2 + 4 + 8)
    assert simulation.invariants.hold and not simulation.admission.holding["batch"]


def test_the_reason_of_an_eviction_names_the_limit_that_was_reached():
    values = small(days=400 / 86400)
    values["pools"]["gpu"]["limit"] = 0
    (run,) = simulate(values).every_run
    assert run.workload.reason == "PodsReadyTimeout: node pool gpu is at its limit of 0 nodes; requeued in 60 s"
