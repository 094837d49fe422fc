"""Counters and gauges."""

import time

from emoji_ldm.generate.continuous_batching.batch_scheduler import BatchScheduler
from emoji_ldm.generate.continuous_batching.batcher import FINAL_STATES, batcher_stats
from emoji_ldm.generate.continuous_batching.batcher_state import BatcherCounters
from tests.unit.generate.continuous_batching.fake_models import add_ready, fake_model, pending_image


def test_gauges_count_images_and_steps_by_class():
    scheduler, model = BatchScheduler(), fake_model()
    (first, *_) = add_ready(scheduler, model, count=3)
    add_ready(scheduler, model, bulk=True, count=2)
    first.bucket.next_batch(False)  # two bulk images take what three interactive ones leave: one slot of four
    first.bucket.waiting[True].push(pending_image(first.bucket, 40, bulk=True, submitted_at=time.monotonic() - 100))
    stats = batcher_stats(BatcherCounters(), scheduler, model, finishing=2, encode_s=0.5)
    assert stats.running == {"interactive": 3, "bulk": 2} and stats.queued == {"interactive": 0, "bulk": 1}
    assert stats.row_steps == {"interactive": 30, "bulk": 20 + 40} and stats.finishing == 2
    assert stats.oldest_s["bulk"] >= 100 and stats.oldest_s["interactive"] == 0
    assert (stats.max_batch, stats.row_steps_per_s) == (4, 4.0)


def test_draining_takes_as_long_as_the_slower_of_denoising_and_encoding():
    scheduler, model = BatchScheduler(), fake_model()
    add_ready(scheduler, model, count=4)
    counters = BatcherCounters()
    assert batcher_stats(counters, scheduler, model, 0, encode_s=0.5).drain_s == 10
    assert batcher_stats(counters, scheduler, model, 0, encode_s=5.0).drain_s == 20


def test_ticks_and_final_states_are_counted():
    counters = BatcherCounters()
    for seconds in (0.5, 1.5):
        counters.tick(3, seconds)
    counters.final_states.update(["drawn", "drawn", "expired"])
    counters.refused = 4
    stats = batcher_stats(counters, [], fake_model(), 0, 0.0)
    assert stats.rows_per_forward == {3: 2} and stats.tick_s == {3: 2.0}
    assert [getattr(stats, name) for name in FINAL_STATES] == [2, 0, 1, 0] and stats.refused == 4
