"""The simulator against results that can be worked out by hand."""

import random

import pytest

from emoji_ldm.cluster.simulate import published
from emoji_ldm.cluster.simulate.clock import Clock
from emoji_ldm.cluster.simulate.kueue import Kueue
from emoji_ldm.cluster.simulate.quota import ClusterQueue, Cohort, Quota
from emoji_ldm.cluster.simulate.scenario import Rates
from emoji_ldm.cluster.simulate.workloads import PodSet, Workload
from tests.unit.cluster.simulated import simulate, small


def only(world):
    (run,) = world.every
    return run


def test_one_job_on_one_pool_takes_exactly_what_its_parts_take():
    world = simulate(small())
    rates, run = world.rates, only(world)
    created = 2 * rates.cluster_s + 9 * rates.pod_s  # the last of a head and eight workers
    waits = 2 * rates.cluster_s + 2 * rates.pod_s + 1 / rates.bind_per_s  # the first worker finds no node
    bound = waits + rates.provision_batch_s + 90 + 8 / rates.bind_per_s  # one node has room for all eight
    assert created < bound
    first = bound - 7 / rates.bind_per_s  # which pulls the image for all
    ready = max(first + rates.images_gb["gpu"] / rates.pull_gb_s, bound) + rates.start_s + rates.join_s
    begun = ready + rates.pod_s + 1 / rates.bind_per_s + rates.start_s  # the submitter, on the head's node
    assert run.first_ready_at == pytest.approx(begun, abs=1e-6)
    assert run.ended_at == pytest.approx(begun + 40_000 / (8 * 5.0), abs=1e-6)


def test_money_is_nodes_times_time_and_every_cent_is_a_jobs_or_nobodys():
    values = small()
    for pool in values["pools"].values():
        pool |= {"static": 2, "limit": 2}
    world = simulate(values)
    assert world.books.billed_usd == pytest.approx(world.clock.now / 3600 * (2 * 1.0 + 2 * 16.0))
    gpus = only(world).gpu_s / 3600 * 16.0 / 8
    head = sum(run.cost_usd for run in world.every) - gpus
    assert 0 < head < 0.2  # its head and submitter
    assert world.books.charged_usd <= world.books.billed_usd


def test_more_quota_never_makes_it_longer():
    def makespan(gpus):
        values = small(work={"copies": 6})
        values["queues"]["batch"]["nominal"]["gpu"]["nvidia.com/gpu"] = gpus
        return max(run.ended_at for run in simulate(values).every)

    times = [makespan(gpus) for gpus in (8, 16, 24, 32, 48, 64)]
    assert times == sorted(times, reverse=True)
    assert times[0] > 5 * (40_000 / 40)  # one after the other


def test_a_queue_with_one_place_waits_as_queueing_theory_says():
    clock, dice, waits = Clock(), random.Random(1), {}
    busy, length, num = 0.5, 1.0, 2_000
    cohort = Cohort([ClusterQueue("q", ("f",), {("f", "cpu"): Quota(1)})])

    def admitted(workload):
        waits[int(workload.name)] = clock.now - workload.created
        clock.after(length, kueue.give_back, workload)

    kueue = Kueue(clock, [cohort], 0.0, admitted, lambda victim, why: None)
    time, wait, everything, expected = 0.0, -length, [], []
    for number in range(num):
        gap = dice.expovariate(busy / length)
        time, wait = time + gap, max(0.0, wait + length - gap)  # Lindley's recursion
        expected.append(wait)
        everything.append(Workload(f"{number}", "q", 0, (PodSet("main", 1, (("cpu", 1),)),), created=time))
        clock.at(time, kueue.submit, everything[-1])
    clock.run(1e9, lambda: False)
    assert [waits[number] for number in range(num)] == pytest.approx(expected, abs=1e-6)
    assert sum(expected) / num == pytest.approx(
        busy * length / (2 * (1 - busy)), rel=0.15
    )  # Pollaczek-Khinchine, M/D/1


def test_the_ceiling_of_a_job_bounds_it_whatever_its_size():
    run = only(simulate(small(work={"ceiling": 10})))
    assert run.ended_at - run.first_ready_at == pytest.approx(4000)


def test_an_elastic_job_loses_no_more_than_the_shards_of_the_workers_it_lost():
    values = small(work={"elastic": True, "checkpoint_s": 600}, storms=[{"at_h": 0.25, "share": 0.5}])
    values["pools"]["gpu"] |= {"spot": True, "cpu": 9}  # one worker a node
    run = only(world := simulate(values))
    assert world.books.storms == [(900.0, 4, 8)]
    assert run.num_lost == 4 and run.num_evicted == 0
    assert 0 < run.lost_work <= 4 * 600 * 5.0
    assert run.done == 40_000


def test_figures_that_set_a_rate_are_met_and_predictions_are_not_far():
    rates = Rates()
    assert published.ten_thousand_pods(rates) == pytest.approx(200, rel=0.01)
    assert published.ray_clusters(1_000, rates) == pytest.approx(268.9, rel=0.01)
    assert published.ray_clusters(5_000, rates) == pytest.approx(1266.9, rel=0.05)
