"""Admission: borrowing, lending, strict queues, priorities, and the reason of everything that waits."""

import random

import pytest
import simpy

from emoji_ldm.kubernetes.simulation.quota import QuotaAdmission, Usage
from emoji_ldm.kubernetes.simulation.scenario import ClusterQueueSpec, NodePoolSpec

GPU = "nvidia.com/gpu"
POOL = {"instance": "g", "cpu": 8, "memory_gib": 64, "gpus": 8, "price_usd_h": 1}


class TwoQueues:
    """Two queues of one cohort, and the names of admitted requests in order."""

    def __init__(self, *, a=(8, {}), b=(8, {}), strict=False, num_nodes=9):
        self.env, self.admitted = simpy.Environment(), []
        queues = {
            name: ClusterQueueSpec(
                nominal={"spot": {GPU: nominal}},
                strict=strict,
                **{key: {"spot": {GPU: n}} for key, n in limits.items()},
            )
            for name, (nominal, limits) in {"a": a, "b": b}.items()
        }
        self.admission = QuotaAdmission(self.env, queues, {"spot": NodePoolSpec(**POOL, limit=num_nodes)})

    def submit(self, name, queue, gpus, priority=0):
        request = self.admission.submit(name, queue, priority, self.env.now, Usage({("spot", GPU): gpus}))
        request.granted.callbacks.append(lambda _: self.admitted.append(name))
        self.env.run(self.env.now + 1)
        return request


@pytest.mark.parametrize(
    ("a", "b", "most_of_a"),
    [
        ((8, {}), (8, {}), 16),
        ((8, {"borrowing": 2}), (8, {}), 10),
        ((8, {}), (8, {"lending": 2}), 10),
        ((8, {"borrowing": 0}), (8, {}), 8),
    ],
)
def test_a_queue_borrows_what_its_cohort_lends_up_to_its_limit(a, b, most_of_a):
    kueue = TwoQueues(a=a, b=b)
    assert "can never suffice" in kueue.submit("large", "a", most_of_a + 1).reason
    kueue.submit("fits", "a", most_of_a)
    assert "is in use" in kueue.submit("more", "a", 1).reason
    kueue.submit("own", "b", 16 - most_of_a)
    assert kueue.admitted == ["fits", "own"]


def test_a_request_beyond_the_limit_of_the_pool_waits_although_there_is_quota():
    kueue = TwoQueues(num_nodes=1)
    kueue.submit("first", "a", 8)
    assert kueue.submit("second", "b", 2).shortage == "nodes of spot" and kueue.admitted == ["first"]


def test_a_request_says_how_much_is_missing():
    kueue = TwoQueues(b=(0, {}))
    kueue.submit("first", "a", 6)
    assert kueue.submit("second", "a", 4).reason == (
        f"the limit of quota of spot is in use: {GPU} 4 wanted, 2 of 8 free"
    )


@pytest.mark.parametrize(("strict", "admitted"), [(True, ["first"]), (False, ["first", "small"])])
def test_only_a_strict_queue_blocks_the_jobs_behind_its_first(strict, admitted):
    kueue = TwoQueues(strict=strict, b=(0, {}))
    kueue.submit("first", "a", 6)
    kueue.submit("large", "a", 8)
    small = kueue.submit("small", "a", 2)
    assert kueue.admitted == admitted
    assert not strict or small.reason == "waiting behind large in the strict queue a"


def test_released_quota_goes_to_the_highest_priority_that_fits():
    kueue = TwoQueues(b=(0, {}))
    first = kueue.submit("first", "a", 8)
    for name, gpus, priority in (("low", 8, 0), ("high", 8, 9), ("too large", 9, 99)):
        kueue.submit(name, "a", gpus, priority)
    kueue.admission.release("a", first.usage)
    kueue.env.run(kueue.env.now + 1)
    assert kueue.admitted == ["first", "high"]


def test_of_requests_of_one_moment_the_highest_priority_comes_first():
    kueue = TwoQueues(b=(0, {}))
    requests = [kueue.admission.submit(f"{n}", "a", n, 0.0, Usage({("spot", GPU): 8})) for n in (0, 9)]
    kueue.env.run(1)
    assert [request.granted.triggered for request in requests] == [False, True]


def test_a_cancelled_request_unblocks_its_queue_and_gives_back_what_it_got_in_that_moment():
    kueue = TwoQueues(strict=True, b=(0, {}))
    granted, large = kueue.submit("granted", "a", 6), kueue.submit("large", "a", 8)
    kueue.submit("small", "a", 2)
    kueue.admission.cancel(large)
    kueue.env.run(kueue.env.now + 1)
    assert kueue.admitted == ["granted", "small"]
    kueue.admission.cancel(granted)
    assert kueue.admission.queues["a"].used["spot", GPU] == 2


def test_waits_in_a_queue_with_one_server_obey_queueing_theory():
    env, dice, waits = simpy.Environment(), random.Random(1), {}
    busy, length, num = 0.5, 1.0, 2_000
    pools = {"spot": NodePoolSpec(**POOL, limit=1)}
    admission = QuotaAdmission(env, {"q": ClusterQueueSpec(nominal={"spot": {GPU: 1}})}, pools)
    usage, waiting = Usage({("spot", GPU): 1}), {"area": 0.0, "since": 0.0, "number": 0}

    def count_waiting(step):
        waiting["area"] += waiting["number"] * (env.now - waiting["since"])
        waiting["since"], waiting["number"] = env.now, waiting["number"] + step

    def occupy(number, at):
        yield env.timeout(at)
        count_waiting(1)
        yield admission.submit(f"{number}", "q", 0, env.now, usage).granted
        count_waiting(-1)
        waits[number] = env.now - at
        yield env.timeout(length)
        admission.release("q", usage)

    time, wait, expected = 0.0, -length, []
    for number in range(num):
        gap = dice.expovariate(busy / length)
        time, wait = time + gap, max(0.0, wait + length - gap)  # Lindley's recursion
        expected.append(wait)
        env.process(occupy(number, time))
    env.run()
    assert [waits[number] for number in range(num)] == pytest.approx(expected, abs=1e-6)
    mean = sum(expected) / num
    assert mean == pytest.approx(busy * length / (2 * (1 - busy)), rel=0.15)  # Pollaczek-Khinchine, M/D/1
    assert waiting["area"] / env.now == pytest.approx(num / env.now * mean)  # Little's law, L = lambda W
