"""The life of a run, compared with results that can be computed by hand, and what spot losses do to it."""

from itertools import pairwise

import pytest

from emoji_ldm.kubernetes.simulation.job_model import load_per_s
from emoji_ldm.kubernetes.simulation.scenario import parse
from tests.unit.kubernetes.simulation.small_scenarios import on_spot, simulate, small


def test_the_duration_of_a_single_job_is_the_sum_of_its_phases():
    simulation = simulate(small())
    rates, (run,) = simulation.scenario.rates, simulation.every_run
    # The first worker, created after the head, orders the node; all others exist when it has started.
    begun = 2 * rates.cluster_s + 2 / rates.api_pods_per_s + 180 + rates.start_s
    assert run.begun_at == pytest.approx(begun, abs=1e-6)
    assert run.ended_at == pytest.approx(begun + 40_000 / (8 * 5.0), abs=1e-6)
    assert run.limited_s["workers"] == pytest.approx(1000)


@pytest.mark.parametrize("limit", ["quota", "nodes"])
def test_more_quota_or_nodes_never_increase_the_makespan(limit):
    def makespan(num_nodes):
        values = small(work={"copies": 6})
        if limit == "quota":
            values["queues"]["batch"]["nominal"]["gpu"]["nvidia.com/gpu"] = 8 * num_nodes
        else:
            values["pools"]["gpu"]["limit"] = num_nodes
        return max(run.ended_at for run in simulate(values).every_run)

    times = [makespan(num_nodes) for num_nodes in (1, 2, 3, 4, 6, 8)]
    assert all(more <= fewer * (1 + 1e-9) for fewer, more in pairwise(times))
    assert times[0] >= 6 * (40_000 / 40)  # one after the other
    assert times[-1] < 2 * (40_000 / 40)  # all at once


def test_a_job_is_submitted_when_the_job_that_it_follows_has_ended():
    values = small()
    values["work"]["next"] = {**values["work"]["caption"], "after": ["caption"]}
    first, following = simulate(values).every_run
    assert following.submitted_at == first.ended_at


def test_the_ceiling_of_a_job_bounds_it_whatever_its_size():
    (run,) = simulate(small(work={"ceiling": 10})).every_run
    assert run.ended_at - run.begun_at == pytest.approx(4000)
    assert max(run.limited_s, key=run.limited_s.get) == "ceiling"


def test_an_elastic_job_gets_the_workers_that_its_quota_allows_and_says_what_it_lacks():
    values = small(work={"elastic": True, "total": 400_000}, group={"max_replicas": 100})
    values["pools"]["gpu"]["limit"] = 20
    (run,) = simulate(values).every_run
    quota_of_64 = 400_000 / (64 * 5.0)
    assert quota_of_64 < run.ended_at - run.begun_at < quota_of_64 + 240  # until the other seven nodes have started
    assert max(run.limited_s, key=run.limited_s.get) == "quota of gpu"


def test_a_gang_that_loses_a_worker_stops_until_it_is_replaced_and_has_read_its_checkpoint():
    whole, broken = (simulate(on_spot(*storms, total=200_000)).every_run[0] for storms in ((), ((1000, 0.15),)))
    (replaced_s,) = broken.replaced_s
    assert replaced_s == pytest.approx(60 + 180 + 13 + 0.02)  # grace, node, Ray, the call that creates the Pod
    assert broken.ended_at - whole.ended_at == pytest.approx(replaced_s + 60, abs=1e-6)
    assert (broken.num_interrupted, broken.num_restarts, broken.lost) == (1, 1, 0)


def test_an_elastic_job_works_on_and_loses_no_more_than_the_shards_of_lost_workers():
    (run,) = simulate(on_spot((900, 0.5), elastic=True, shard_s=600)).every_run
    assert run.num_interrupted == 4 and 0 < run.lost <= 4 * 600 * 5.0
    (short,) = simulate(on_spot((900, 0.5), elastic=True, shard_s=60)).every_run
    assert short.lost == 0 and short.ended_at < run.ended_at


def test_a_run_whose_nodes_are_lost_before_it_has_begun_gets_others():
    values = on_spot((300, 1.0))
    values["rates"] = {"start_s": 200}
    (run,) = simulate(values).every_run
    assert run.num_interrupted == 8 and run.stage == "done"


def test_the_load_of_a_service_is_highest_in_the_evening():
    spec = parse(small(work={"total": None, "load_per_s": 2, "swing": 0.5})).work["caption"]
    assert load_per_s(spec, 18 * 3600) == pytest.approx(3)
    assert load_per_s(spec, 6 * 3600) == pytest.approx(1)


def test_replicas_follow_the_load_of_the_day():
    service = {"total": None, "load_per_s": 10, "swing": 0.9, "rate": 1.0, "busy": 0.5}
    simulation = simulate(small(work=service, group={"min_replicas": 2, "max_replicas": 60}))
    used = {round(sample["hours"] * 60): sample["gpus"] for sample in simulation.samples}
    assert used[18 * 60 + 10] == 38 and used[6 * 60 + 10] == 2  # 10 x 1.9 / 0.5, and 10 x 0.1 / 0.5
    (run,) = simulation.every_run
    assert run.requested == pytest.approx(864_000, rel=0.01)
    assert 0.99 * run.requested < run.done <= run.requested


def test_a_service_receives_requests_while_it_is_down():
    values = on_spot((3600, 1.0), total=None, load_per_s=4, rate=2.0, days=0.2)
    values["pools"]["gpu"]["startup_s"] = 1000
    (run,) = simulate(values).every_run
    assert run.requested == pytest.approx(4 * 0.2 * 86400)
    assert run.requested - run.done == pytest.approx(4 * 1013, abs=1)  # a node's start and Ray's
