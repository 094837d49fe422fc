"""The state that a batcher's threads share."""

import time
import weakref

import pytest

from emoji_ldm.generate.continuous_batching.admission_control import DeadlineExceeded
from emoji_ldm.generate.continuous_batching.batcher_state import BatcherClosed, BatcherState
from tests.unit.generate.continuous_batching.fake_models import SHAPE, add_ready, fake_model, pending_image


@pytest.fixture
def state():
    return BatcherState(4)


@pytest.fixture
def bucket(state):
    return state.scheduler.bucket(fake_model(), SHAPE)


def test_an_image_ends_exactly_once(state, bucket):
    pending = pending_image(bucket)
    state.admit(pending, 8)
    assert state.finish(pending, "drawn") and not state.finish(pending, "expired")
    state.fail(pending, RuntimeError())
    assert state.counters.final_states == {"drawn": 1}
    assert not state.pending and not len(bucket.waiting[False])


def test_a_cancelled_image_is_counted_and_leaves_the_queue(state, bucket):
    pending = pending_image(bucket)
    state.admit(pending, 8)
    pending.cancel()
    assert pending.ended and state.counters.final_states == {"cancelled": 1} and not len(bucket.waiting[False])


def test_a_refused_image_is_counted_and_not_queued(state, bucket):
    state.admit(pending_image(bucket, 1), 8)
    with pytest.raises(DeadlineExceeded):
        state.admit(pending_image(bucket, 20, deadline=time.monotonic() + 10), 8)
    assert state.counters.refused == 1 and len(state.pending) == 1


def test_an_image_knows_its_place_and_when_it_will_be_ready(state, bucket):
    ready = add_ready(state.scheduler, bucket.model, count=1)
    images = [pending_image(bucket, submitted_at=ready[0].submitted_at + number) for number in (1, 2)]
    bulk = pending_image(bucket, bulk=True, submitted_at=0)
    for pending in (*images, bulk):
        state.admit(pending, 8)
    assert [state.place(each) for each in (*ready, *images, bulk)] == [1, 2, 3, 1]
    # Ten steps of a second each, in slots that are free.
    assert images[0].predicted_s >= 10
    bucket.ready[False].clear()
    assert [state.place(each) for each in (*ready, *images)] == [0, 1, 2], "it is being drawn"


def test_a_decode_backlog_of_bulk_images_stops_no_interactive_step():
    state, model = BatcherState(2), fake_model()
    bulk = add_ready(state.scheduler, model, bulk=True, count=2)
    state.decode_queues[True].extend([None] * 8)
    assert not state.can_step
    interactive = add_ready(state.scheduler, model)
    assert state.can_step and state.scheduler.next_batch(state.runnable_classes)[1] == interactive
    state.decode_queues[False].extend([None] * 8)
    assert not state.can_step
    for queue in state.decode_queues:
        queue.clear()
    assert set(state.scheduler.next_batch(state.runnable_classes)[1]) == {*interactive, *bulk}


def test_nothing_keeps_an_image_alive_that_has_ended(state, bucket):
    for _ in range(300):
        pending = pending_image(bucket, 1, deadline=time.monotonic() + 1e6)
        state.admit(pending, 8)
        weak = weakref.ref(pending)
        assert state.finish(pending, "drawn")
        pending.future.set_result(b"")
        del pending
        assert weak() is None
    assert len(state._deadlines) < 100


def test_an_expired_image_is_returned_once(state, bucket):
    assert state.next_deadline_in_s() is None
    pending = pending_image(bucket, 1, deadline=time.monotonic() + 0.05)
    state.admit(pending, 8)
    assert 0 < state.next_deadline_in_s() < 0.06
    time.sleep(0.06)
    assert state.take_expired() == [pending] and state.take_expired() == []


def test_a_thread_hangs_if_it_takes_much_longer_than_expected(state):
    now = time.monotonic()
    state.watch_thread("step", 30.0)
    assert 290 < state.thread_deadlines["step"] - now < 310
    state.watch_thread("decode", 0.0)
    assert 50 < state.thread_deadlines["decode"] - now < 70
    state.check()
    state.thread_deadlines["decode"] = now - 1
    with pytest.raises(RuntimeError, match="the decode thread hangs"):
        state.check()


def test_stopping_fails_what_is_pending_with_the_cause_and_admits_nothing_more(state, bucket):
    pending, error = pending_image(bucket), ValueError("no weights")
    state.admit(pending, 8)
    state.stop(error)
    assert isinstance(pending.future.exception(0), BatcherClosed)
    assert pending.future.exception(0).__cause__ is error
    with pytest.raises(BatcherClosed):
        state.admit(pending_image(bucket), 8)
    with pytest.raises(RuntimeError, match="no weights"):
        state.check()
