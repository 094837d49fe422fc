"""A bucket: which of its images make up the next tick."""

import time

from emoji_ldm.generate.continuous_batching.batch_bucket import BatchBucket
from emoji_ldm.generate.latency_model import LatencyProfile
from tests.unit.generate.continuous_batching.fake_models import SHAPE, fake_model, pending_image


def bucket_with(*, interactive=0, bulk=0, max_batch=4):
    model = fake_model(max_batch)
    bucket = BatchBucket(model, SHAPE, model.shape_profile(SHAPE))
    for is_bulk, count in ((False, interactive), (True, bulk)):
        bucket.ready[is_bulk] += [pending_image(bucket, bulk=is_bulk) for _ in range(count)]
    return bucket


def test_running_images_keep_their_slots_until_they_are_done():
    bucket = bucket_with(interactive=6)
    first = bucket.next_batch(False)
    assert len(first) == 4 and bucket.next_batch(False) == first
    bucket.running[False].remove(first[1])
    assert bucket.next_batch(False)[:3] == [first[0], first[2], first[3]]
    assert len(bucket.next_batch(False)) == 4


def test_bulk_images_fill_free_slots_as_long_as_that_slows_a_tick_little():
    bucket = bucket_with(interactive=2, bulk=8, max_batch=8)
    assert sum(pending.bulk for pending in bucket.next_batch(False)) == 6  # all ticks take equally long
    bucket.shape_profile.profile = LatencyProfile({4: 4.0, 16: 16.0})  # two guided images are four rows
    assert sum(pending.bulk for pending in bucket.next_batch(False)) == 1  # 6 s in place of 4; another would make it 8
    bucket.shape_profile.profile = LatencyProfile({4: 4.0, 16: 28.0})
    assert sum(pending.bulk for pending in bucket.next_batch(False)) == 0


def test_interactive_images_always_fill_the_free_slots_of_a_bulk_tick():
    bucket = bucket_with(interactive=2, bulk=1)
    bucket.shape_profile.profile = LatencyProfile({1: 1.0, 8: 8.0})
    assert [pending.bulk for pending in bucket.next_batch(True)] == [True, False, False]
    assert [pending.bulk for pending in bucket.next_batch(True, fill_up=False)] == [True]


def test_a_ticks_worth_of_images_is_kept_ready():
    bucket = bucket_with(interactive=3)
    assert not bucket.needs_preparing(False)  # nothing waits
    for _ in range(2):
        bucket.waiting[False].push(pending_image(bucket))
    assert bucket.needs_preparing(False)
    bucket.preparing[False] = 1
    assert not bucket.needs_preparing(False)
    assert (bucket.num_images(False), bucket.num_runnable(False)) == (6, 3)


def test_images_that_would_miss_their_deadline_are_dropped_except_the_only_one():
    bucket, now = bucket_with(interactive=3), time.monotonic()
    images = list(bucket.ready[False])
    for pending, seconds in zip(images, (5, 1000, 5), strict=True):
        pending.deadline = now + seconds  # ten steps take ten seconds
    # The first one stays: its ticks are what corrects a wrong prediction.
    assert bucket.take_unmeetable(now) == [images[2]] and list(bucket.ready[False]) == images[:2]
    bucket.next_batch(False)
    late = pending_image(bucket, deadline=now + 9)
    bucket.ready[False].append(late)
    assert bucket.take_unmeetable(now) == [late] and bucket.running[False] == images[:2]


def test_ended_images_leave_the_bucket():
    bucket = bucket_with(interactive=5)
    running = bucket.next_batch(False)
    running[0].ended = bucket.ready[False][0].ended = True
    bucket.drop_ended()
    assert bucket.running[False] == running[1:] and not bucket.ready[False] and not bucket.is_empty
    assert bucket.steps_left(False) == 30
