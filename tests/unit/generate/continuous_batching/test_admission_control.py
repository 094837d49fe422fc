"""Admission control: predicted waits, and who is refused because of them."""

import pickle
import time

import pytest

from emoji_ldm.generate.continuous_batching.admission_control import (
    ARRIVALS_WINDOW_S,
    AdmissionControl,
    Arrivals,
    DeadlineExceeded,
    QueueFull,
    predict_drain_s,
    predict_wait_s,
)
from emoji_ldm.generate.continuous_batching.batch_scheduler import BatchScheduler
from tests.unit.generate.continuous_batching.fake_models import SHAPE, add_ready, fake_model, pending_image


def test_a_free_slot_means_no_wait_and_a_full_bucket_one_until_the_first_slot_is_free():
    scheduler, model = BatchScheduler(), fake_model(max_batch=8)
    images = add_ready(scheduler, model, count=7)
    bucket = images[0].bucket
    assert predict_wait_s(list(scheduler), pending_image(bucket, 100)) == 100
    add_ready(scheduler, model)
    assert predict_wait_s(list(scheduler), pending_image(bucket, 100)) == 10 + 100
    bucket.waiting[False].push(pending_image(bucket, 40))
    assert predict_wait_s(list(scheduler), pending_image(bucket, 100)) == 10 + 40 / 8 + 100
    assert predict_wait_s(list(scheduler), pending_image(bucket, 5, bulk=True)) == 5 + (8 * 10 + 40) / 8


def test_other_buckets_take_their_share_of_the_time_until_they_are_done():
    scheduler, model = BatchScheduler(), fake_model()
    for _ in range(8):
        add_ready(scheduler, fake_model())
    bucket = scheduler.bucket(model, SHAPE)
    assert predict_wait_s(list(scheduler), pending_image(bucket, 30)) == pytest.approx(30 + 8 * 10)
    assert predict_wait_s(list(scheduler), pending_image(bucket, 2)) == pytest.approx(2 + 8 * 2)
    add_ready(scheduler, model, bulk=True)
    assert predict_wait_s(list(scheduler), pending_image(bucket, 2)) == pytest.approx(18 / 0.9)


def test_a_bucket_that_fills_up_again_as_it_drains_takes_its_share_all_the_time():
    scheduler, arrivals, now = BatchScheduler(), Arrivals(), time.monotonic()
    own, busy = scheduler.bucket(fake_model(), SHAPE), scheduler.bucket(fake_model(), SHAPE)

    def admit(count):
        for _ in range(count):
            busy.waiting[False].push(pending := pending_image(busy, 10, submitted_at=now))
            arrivals.add(pending)
        return predict_wait_s(list(scheduler), pending_image(own, 30, submitted_at=now), arrivals)

    waiting_s = admit(2)  # five seconds of work, which take ten with two rows, and five more in the next ten
    assert waiting_s == pytest.approx(30 + 10 + 0.5 * waiting_s, rel=0.01), "half of the time goes to what will come"
    assert admit(20) == pytest.approx(30 + 4 * 30), "never more than its share: it has four rows beside this one"


def test_arrivals_count_when_their_bucket_has_run_empty_and_fade():
    scheduler, arrivals, now = BatchScheduler(), Arrivals(), time.monotonic()
    own, gone = scheduler.bucket(fake_model(), SHAPE), BatchScheduler().bucket(fake_model(), SHAPE)
    arrivals.add(pending_image(gone, 20, submitted_at=now))
    for elapsed_s, load in ((0, 0.5), (ARRIVALS_WINDOW_S, 0.184), (10 * ARRIVALS_WINDOW_S, 0)):
        pending = pending_image(own, 30, submitted_at=now + elapsed_s)
        assert predict_wait_s([own], pending, arrivals) == pytest.approx(30 / (1 - load), rel=0.01)
    assert not arrivals._loads


def test_everything_is_drained_after_its_steps_in_full_ticks():
    scheduler, model = BatchScheduler(), fake_model()
    assert predict_drain_s(list(scheduler)) == 0
    (first, *_) = add_ready(scheduler, model, count=4)
    assert predict_drain_s(list(scheduler)) == 10
    first.bucket.waiting[False].push(pending_image(first.bucket, 40))
    assert predict_drain_s(list(scheduler)) == (4 * 10 + 40) / 4


class Queue:
    """One bucket behind admission control."""

    def __init__(self, *, max_queued=8, encode_s=0.0):
        self.scheduler, self.control = BatchScheduler(), AdmissionControl()
        self.bucket = self.scheduler.bucket(fake_model(), SHAPE)
        self.options = {"max_queued": max_queued, "encode_s": encode_s}
        self.idle = True

    def add(self, steps=1, timeout_s=None, **fields):
        deadline = {} if timeout_s is None else {"deadline": time.monotonic() + timeout_s}
        pending = pending_image(self.bucket, steps, **deadline, **fields)
        self.control.check(pending, list(self.scheduler), idle=self.idle, **self.options)
        self.bucket.waiting[pending.bulk].push(pending)
        self.idle = False


def test_a_lone_request_is_always_admitted_since_it_corrects_the_predictions():
    queue = Queue()
    queue.add(steps=500, timeout_s=1.0)
    assert len(queue.bucket.waiting[False]) == 1


def test_a_request_that_would_be_late_even_alone_is_refused_for_good():
    queue = Queue()
    queue.add()
    with pytest.raises(DeadlineExceeded, match="20 steps of this size take longer than 10"):
        queue.add(steps=20, timeout_s=10)


def test_a_full_queue_is_a_refusal_that_says_when_to_come_back():
    queue = Queue()
    for _ in range(8):
        queue.add()
    with pytest.raises(QueueFull, match="try again in") as refusal:
        queue.add()
    assert refusal.value.retry_after_s >= 1
    queue.add(bulk=True)  # the other class has a queue of its own


def test_slow_png_encoding_counts_as_a_wait_too():
    queue = Queue(max_queued=100, encode_s=30.0)
    queue.add()
    with pytest.raises(QueueFull):
        queue.add(timeout_s=40)


def test_a_named_tenant_leaves_room_in_the_queue_for_others():
    queue = Queue()
    for _ in range(6):
        queue.add(tenant="greedy")
    with pytest.raises(QueueFull):
        queue.add(tenant="greedy")
    queue.add(tenant="other")


def test_under_overload_long_images_are_refused_no_more_often_than_short_ones():
    queue, refused = Queue(max_queued=1000), {10: 0, 50: 0}
    for number in range(200):
        steps = (10, 50)[number % 2]
        try:
            queue.add(steps, timeout_s=100)
        except QueueFull as full:
            assert 1 <= full.retry_after_s < 50
            refused[steps] += 1
    assert abs(refused[10] - refused[50]) <= 1 < refused[10]
    assert 150 < queue.bucket.waiting[False].total_steps < 400, "the longest image limits every wait for a slot"


def test_a_refusal_crosses_processes_with_its_time():
    assert pickle.loads(pickle.dumps(QueueFull(2.5))).retry_after_s == 2.5
