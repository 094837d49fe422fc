"""Kueue's rules in the simulator: borrowing, lending, preemption, strict queues, reasons."""

import pytest

from emoji_ldm.cluster.simulate.clock import Clock
from emoji_ldm.cluster.simulate.kueue import Kueue
from emoji_ldm.cluster.simulate.quota import ClusterQueue, Cohort, Quota
from emoji_ldm.cluster.simulate.workloads import PodSet, Workload

GPU = "nvidia.com/gpu"
SPOT = ("gpu-spot", GPU)


class Desk:
    """Two queues in one cohort; who was admitted and evicted, in order."""

    def __init__(self, **options):
        quota = options.pop("quota", {})
        self.clock, self.admitted, self.evicted = Clock(), [], []
        queues = [
            ClusterQueue(name, ("gpu-spot",), {SPOT: quota.get(name, Quota(8))}, **options) for name in ("a", "b")
        ]
        self.cohort = Cohort(queues)
        self.kueue = Kueue(self.clock, [self.cohort], 0.01, lambda w: self.admitted.append(w.name), self.evict)
        self.kept = []

    def evict(self, workload, why):
        self.evicted.append(workload.name)
        self.kueue.give_back(workload)

    def submit(self, name, queue, gpus, priority=0):
        workload = Workload(name, queue, priority, (PodSet("workers", gpus, ((GPU, 1),)),), created=self.clock.now)
        self.kept.append(workload)
        self.kueue.submit(workload)
        self.clock.run(1e9, lambda: False)
        return workload


def test_a_job_that_finds_no_room_says_in_kueues_words_what_is_missing():
    desk = Desk(quota={"b": Quota(0)})
    desk.submit("first", "a", 6)
    assert desk.submit("second", "a", 10).reason == (
        "couldn't assign flavors to pod set workers: insufficient quota for nvidia.com/gpu in flavor gpu-spot, "
        "request > maximum capacity (10 > 8)"
    )
    assert desk.submit("third", "a", 8).reason == (
        "couldn't assign flavors to pod set workers: insufficient unused quota for nvidia.com/gpu in flavor gpu-spot, "
        "6 more needed"
    )


def test_idle_quota_is_borrowed_up_to_the_limit():
    desk = Desk(quota={"a": Quota(8, borrowing=4)})
    desk.submit("large", "a", 12)
    assert desk.admitted == ["large"]
    assert "2 more needed" in desk.submit("more", "a", 2).reason


def test_what_a_queue_keeps_by_its_lending_limit_nobody_borrows():
    desk = Desk(quota={"b": Quota(8, lending=2)})
    assert "(16 > 10)" in desk.submit("large", "a", 16).reason
    desk.submit("fits", "a", 10)
    desk.submit("own", "b", 6)
    assert desk.admitted == ["fits", "own"]


def test_an_owner_takes_borrowed_quota_back():
    desk = Desk()
    desk.submit("borrower", "a", 16)
    desk.submit("owner", "b", 8)
    assert desk.evicted == ["borrower"] and desk.admitted[-1] == "owner"


def test_an_owner_that_would_have_to_borrow_evicts_nobody():
    desk = Desk()
    desk.submit("borrower", "a", 10)
    assert desk.submit("owner", "b", 10).reason.endswith("4 more needed")
    assert desk.evicted == []


def test_it_may_evict_low_priorities_even_to_borrow_where_the_queue_says_so():
    desk = Desk(borrow_over=100)
    desk.submit("borrower", "a", 10, priority=5)
    desk.submit("important", "b", 10, priority=1000)
    assert desk.evicted == ["borrower"] and desk.admitted[-1] == "important"


def test_within_a_queue_lower_priorities_go_and_no_more_of_them_than_needed():
    desk = Desk(quota={"b": Quota(0)})
    for name, gpus, priority in (("low", 3, 1), ("lower", 3, 0), ("same", 2, 9)):
        desk.submit(name, "a", gpus, priority)
    desk.submit("high", "a", 3, priority=9)
    assert desk.evicted == ["lower"] and desk.admitted[-1] == "high"


@pytest.mark.parametrize(("strict", "admitted"), [(True, ["first"]), (False, ["first", "small"])])
def test_a_strict_queue_lets_nobody_past_its_first(strict, admitted):
    desk = Desk(quota={"b": Quota(0)}, strict=strict)
    desk.submit("first", "a", 6)
    desk.submit("large", "a", 8)
    desk.submit("small", "a", 2)
    assert desk.admitted == admitted


def test_who_preempts_gets_what_was_freed_although_others_wait_too():
    desk = Desk()
    desk.submit("train-1", "a", 8, priority=9)
    desk.submit("train-2", "a", 8, priority=9)  # borrows
    desk.submit("blocked", "b", 99)
    desk.submit("caption", "b", 8)
    assert desk.evicted == ["train-2"] and desk.admitted == ["train-1", "train-2", "caption"]
