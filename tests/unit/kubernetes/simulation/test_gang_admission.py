"""Gang admission: borrowing, lending, strict queues, priorities, and the reason of everything that waits."""

import random

import pytest
import simpy

from emoji_ldm.kubernetes.simulation.gang_admission import GangAdmission
from emoji_ldm.kubernetes.simulation.quota import ClusterQueue, Cohort, PodSet, QueuedWorkload, ResourceQuota

GPU = "nvidia.com/gpu"
SPOT = ("gpu-spot", GPU)


class TwoQueues:
    """Two queues of one cohort, and the names of admitted workloads in order."""

    def __init__(self, *, strict=False, **quotas):
        self.env, self.admitted = simpy.Environment(), []
        queues = [ClusterQueue(n, {SPOT: quotas.get(n, ResourceQuota(8))}, strict) for n in ("a", "b")]
        self.admission = GangAdmission(self.env, [Cohort(queues)], 0.01)

    def submit(self, name, queue, gpus, priority=0):
        pod_sets = (PodSet("workers", gpus, ((GPU, 1),)),)
        workload = QueuedWorkload(name, queue, priority, pod_sets, created=self.env.now)
        self.admission.submit(workload).callbacks.append(lambda event: self.admitted.append(name))
        self.env.run()
        return workload


def test_the_reason_of_a_refused_job_is_worded_as_kueue_words_it():
    kueue = TwoQueues(b=ResourceQuota(0))
    kueue.submit("first", "a", 6)
    assert kueue.submit("second", "a", 10).reason == (
        "couldn't assign flavors to pod set workers: insufficient quota for nvidia.com/gpu in flavor gpu-spot, "
        "request > maximum capacity (10 > 8)"
    )
    assert kueue.submit("third", "a", 8).reason == (
        "couldn't assign flavors to pod set workers: insufficient unused quota for nvidia.com/gpu in flavor gpu-spot, "
        "6 more needed"
    )
    assert kueue.admitted == ["first"] and len(kueue.admission.pending()) == 2


def test_idle_quota_is_borrowed_up_to_the_limit():
    kueue = TwoQueues(a=ResourceQuota(8, borrowing=4))
    kueue.submit("large", "a", 12)
    assert kueue.admitted == ["large"]
    assert "2 more needed" in kueue.submit("more", "a", 2).reason


def test_quota_above_the_lending_limit_is_not_borrowed():
    kueue = TwoQueues(b=ResourceQuota(8, lending=2))
    assert "(16 > 10)" in kueue.submit("large", "a", 16).reason
    kueue.submit("fits", "a", 10)
    kueue.submit("own", "b", 6)
    assert kueue.admitted == ["fits", "own"]


@pytest.mark.parametrize(("strict", "admitted"), [(True, ["first"]), (False, ["first", "small"])])
def test_only_a_strict_queue_blocks_the_jobs_behind_its_first(strict, admitted):
    kueue = TwoQueues(strict=strict, b=ResourceQuota(0))
    kueue.submit("first", "a", 6)
    kueue.submit("large", "a", 8)
    small = kueue.submit("small", "a", 2)
    assert kueue.admitted == admitted
    assert small.reason == ("waiting behind large in the strict queue a" if strict else "")


def test_released_quota_goes_to_the_highest_priority_that_fits():
    kueue = TwoQueues(b=ResourceQuota(0))
    first = kueue.submit("first", "a", 8)
    for name, gpus, priority in (("low", 8, 0), ("high", 8, 9), ("too large", 9, 99)):
        kueue.submit(name, "a", gpus, priority)
    kueue.admission.release(first)
    kueue.env.run()
    assert kueue.admitted == ["first", "high"]


def test_a_gang_that_does_not_fit_holds_no_quota_at_all():
    kueue = TwoQueues(b=ResourceQuota(0))
    pod_sets = (PodSet("head", 1, ((GPU, 1),)), PodSet("workers", 8, ((GPU, 1),)))
    gang = QueuedWorkload("gang", "a", 0, pod_sets)
    kueue.admission.submit(gang)
    kueue.env.run()
    assert not gang.held and not kueue.admission.holding["a"] and gang.reason


def test_an_elastic_workload_grows_and_shrinks_within_its_quota():
    kueue = TwoQueues(b=ResourceQuota(0))
    workload = kueue.submit("job", "a", 6)
    assert "1 more needed" in kueue.admission.grow(workload, PodSet("workers", 3, ((GPU, 1),)))
    assert kueue.admission.grow(workload, PodSet("workers", 2, ((GPU, 1),))) == "" and workload.held == {SPOT: 8}
    kueue.admission.shrink(workload, PodSet("workers", 5, ((GPU, 1),)))
    kueue.submit("next", "a", 5)
    assert workload.held == {SPOT: 3} and kueue.admitted == ["job", "next"]


def test_waits_in_a_queue_with_one_server_agree_with_queueing_theory():
    env, dice, waits = simpy.Environment(), random.Random(1), {}
    busy, length, num = 0.5, 1.0, 2_000
    admission = GangAdmission(env, [Cohort([ClusterQueue("q", {("f", "cpu"): ResourceQuota(1)})])], 0.0)

    def occupy(number, at):
        yield env.timeout(at)
        workload = QueuedWorkload(f"{number}", "q", 0, (PodSet("main", 1, (("cpu", 1),)),), created=env.now)
        yield admission.submit(workload)
        waits[number] = env.now - workload.created
        yield env.timeout(length)
        admission.release(workload)

    time, wait, expected = 0.0, -length, []
    for number in range(num):
        gap = dice.expovariate(busy / length)
        time, wait = time + gap, max(0.0, wait + length - gap)  # Lindley's recursion
        expected.append(wait)
        env.process(occupy(number, time))
    env.run()
    assert [waits[number] for number in range(num)] == pytest.approx(expected, abs=1e-6)
    mean = busy * length / (2 * (1 - busy))  # Pollaczek-Khinchine, M/D/1
    assert sum(expected) / num == pytest.approx(mean, rel=0.15)
