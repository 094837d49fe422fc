"""The scheduler: which bucket and which class has the next tick."""

import time

from emoji_ldm.generate.continuous_batching.batch_scheduler import MAX_IDLE_S, BatchScheduler
from emoji_ldm.generate.latency_model import LatencyProfile
from tests.unit.generate.continuous_batching.fake_models import SHAPE, add_ready, fake_model, pending_image


def test_interactive_images_take_the_slots_of_bulk_images_except_for_a_tenth_of_the_ticks():
    scheduler, model = BatchScheduler(), fake_model()
    add_ready(scheduler, model, bulk=True, count=8)
    assert all(pending.bulk for pending in scheduler.next_batch()[1])
    add_ready(scheduler, model, count=8)
    ticks = [[pending.bulk for pending in scheduler.next_batch()[1]] for _ in range(100)]
    assert 8 <= sum(all(tick) for tick in ticks) <= 11
    assert all(len(set(tick)) == 1 for tick in ticks)


def test_buckets_share_the_time_by_the_rows_that_they_could_advance():
    scheduler = BatchScheduler()
    add_ready(scheduler, fake_model(), count=3)
    add_ready(scheduler, fake_model(), count=1)
    sizes = [len(scheduler.next_batch()[1]) for _ in range(40)]
    assert sizes.count(3) == 30 and sizes.count(1) == 10


def test_rows_of_a_tenant_advance_equally_often_however_large_they_are():
    scheduler, small, large = BatchScheduler(), fake_model(), fake_model(max_batch=1)
    add_ready(scheduler, small, count=4)
    (big,) = add_ready(scheduler, large)
    big.bucket.shape_profile.profile = LatencyProfile({1: 5.0, 2: 5.0})  # the four small ones take a second
    ticks = [big in scheduler.next_batch()[1] for _ in range(40)]
    assert 19 <= sum(ticks) <= 21


def test_tenants_share_the_time_of_all_buckets_evenly_however_many_sizes_they_request():
    scheduler = BatchScheduler()
    for _ in range(4):
        add_ready(scheduler, fake_model(), count=4, tenant="many")
    (few,) = add_ready(scheduler, fake_model(), tenant="few")
    turns = [few in scheduler.next_batch()[1] for _ in range(40)]
    assert 18 <= sum(turns) <= 22


def test_a_bucket_that_was_idle_for_long_is_next_whatever_its_share():
    scheduler = BatchScheduler()
    add_ready(scheduler, fake_model(), count=4)
    (starved,) = add_ready(scheduler, fake_model(), side=16)
    starved.bucket.deficit_s = -1000.0
    assert starved not in scheduler.next_batch()[1]
    starved.bucket.last_stepped_at = time.monotonic() - MAX_IDLE_S - 1
    assert starved in scheduler.next_batch()[1]


def test_images_are_prepared_for_the_bucket_that_would_run_dry_first():
    scheduler, model = BatchScheduler(), fake_model()
    (full, *_) = add_ready(scheduler, model, count=3)
    empty = scheduler.bucket(model, (4, 16, 16))
    for bucket in (full.bucket, empty, empty):
        bucket.waiting[False].push(pending_image(bucket))
    assert scheduler.has_work_to_prepare
    assert [pending.bucket for pending in scheduler.next_to_prepare(1)] == [empty]
    assert empty.preparing[False] == 1
    assert len(scheduler.next_to_prepare(8)) == 1  # the second one; the other bucket comes next
    assert scheduler.next_to_prepare(8)[0].bucket is full.bucket
    assert scheduler.next_to_prepare(8) == [] and not scheduler.has_work_to_prepare


def test_empty_buckets_are_dropped_with_their_stacked_rows():
    scheduler, model = BatchScheduler(), fake_model()
    (pending,) = add_ready(scheduler, model)
    scheduler.drop_finished()
    assert list(scheduler) == [pending.bucket]
    pending.ended = True
    scheduler.drop_finished()
    assert not list(scheduler) and model.engine.evicted == [SHAPE]
