"""The batcher as a whole: every image ends exactly once, with the pixels that it has when generated alone."""

import copy
import math
import random
import threading
import time
from concurrent.futures import CancelledError
from dataclasses import replace

import pytest

from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.continuous_batching.admission_control import DeadlineExceeded, QueueFull
from emoji_ldm.generate.continuous_batching.batcher_state import BatcherClosed
from emoji_ldm.generate.offline_sampler import OfflineSampler
from emoji_ldm.generate.request import GenerationRequest
from tests.generation_requests import mixed_requests

WAIT_S = 60


@pytest.mark.slow
def test_images_requested_at_random_moments_are_those_generated_offline(shared_batcher, images_alone):
    rng = random.Random(0)
    for _ in range(3):
        pending = {}
        for request in rng.sample(mixed_requests(), 8):
            pending[request] = shared_batcher.submit(request, tenant=rng.choice("ab"), bulk=rng.random() < 0.5)
            time.sleep(rng.choice((0, 0.01)))
        for request, image in pending.items():
            assert image.future.result(WAIT_S) == images_alone[request]


@pytest.mark.slow
def test_the_fast_mode_generates_images_of_all_kinds_together(make_batcher, images_alone):
    batcher = make_batcher(deterministic=False)
    pending = {request: batcher.submit(request) for request in mixed_requests()}
    for request, image in pending.items():
        pixels = image.future.result(WAIT_S)
        distance = max(abs(one - other) for one, other in zip(pixels, images_alone[request], strict=True))
        assert distance <= 2, request


@pytest.mark.slow
@pytest.mark.parametrize("count", [20, pytest.param(100, marks=pytest.mark.long)])
def test_hundreds_of_cancellations_leak_nothing_and_change_no_neighbour(
    shared_batcher, images_alone, becomes_idle, count
):
    rng, kept, cancelled = random.Random(1), {}, []
    before = shared_batcher.stats().cancelled
    for request in rng.sample(mixed_requests(), 10):
        kept[request] = shared_batcher.submit(request)
        images = [shared_batcher.submit(rng.choice(mixed_requests()), bulk=rng.random() < 0.5) for _ in range(count)]
        rng.shuffle(images)
        for pending in images:
            if rng.random() < 0.05:
                time.sleep(0.005)
            pending.cancel()
            pending.cancel()
        cancelled += images
    for request, pending in kept.items():
        assert pending.future.result(WAIT_S) == images_alone[request]
    assert becomes_idle(shared_batcher)
    assert all(pending.future.done() for pending in cancelled)
    num_cancelled = sum(pending.future.cancelled() for pending in cancelled)
    assert shared_batcher.stats().cancelled - before == num_cancelled > 8 * count


def test_a_cancelled_row_leaves_the_batch_within_two_ticks(shared_batcher, becomes_idle):
    pending = shared_batcher.submit(GenerationRequest("a cat", steps=500))
    while not pending.row or not pending.row.index:
        time.sleep(0.001)
    pending.cancel()
    index = pending.row.index
    assert becomes_idle(shared_batcher)
    assert pending.row.index - index <= 2
    with pytest.raises(CancelledError):
        pending.future.result()


@pytest.mark.slow
def test_every_image_ends_exactly_once_whatever_happens(make_batcher):
    batcher, rng = make_batcher(max_queued=12), random.Random(2)
    ends, images, num_refused = {}, [], 0
    lock = threading.Lock()

    def count_end(pending):
        with lock:
            ends[pending] = ends.get(pending, 0) + 1

    unreadable = GenerationRequest("a cat", image=b"no image", strength=0.5)
    for _ in range(60):
        request = unreadable if rng.random() < 0.1 else rng.choice(mixed_requests())
        try:
            pending = batcher.submit(
                request, bulk=rng.random() < 0.4, tenant=rng.choice(["", "a", "b"]),
                timeout_s=rng.choice([0.0, 0.05, 5.0, math.inf]), num_previews=1, on_preview=lambda index, png: None,
            )  # fmt: skip
        except (QueueFull, DeadlineExceeded) as refusal:
            assert isinstance(refusal, DeadlineExceeded) or refusal.retry_after_s >= 1
            num_refused += 1
            continue
        pending.future.add_done_callback(lambda _, pending=pending: count_end(pending))
        images.append(pending)
        if rng.random() < 0.2:
            rng.choice(images).cancel()
        time.sleep(rng.choice((0, 0, 0.02)))
    batcher.close(drain_s=WAIT_S)
    stats = batcher.stats()
    assert set(ends) == set(images) and set(ends.values()) == {1}
    assert stats.drawn + stats.cancelled + stats.expired + stats.failed == len(images)
    assert stats.refused == num_refused and stats.drawn and stats.failed
    with pytest.raises(BatcherClosed):
        batcher.submit(GenerationRequest("a cat"))


def test_an_image_whose_deadline_passes_while_it_runs_is_dropped(make_batcher, becomes_idle):
    batcher = make_batcher()
    pending = batcher.submit(GenerationRequest("a cat", steps=900), timeout_s=0.2)
    with pytest.raises(DeadlineExceeded):
        pending.future.result(WAIT_S)
    assert becomes_idle(batcher) and batcher.stats().expired == 1


def test_a_full_queue_and_a_deadline_that_is_too_short_are_refused_at_once(make_batcher):
    batcher = make_batcher(max_queued=8)
    with pytest.raises(QueueFull) as full:
        for _ in range(100):  # more than wait, are prepared and run at once
            batcher.submit(GenerationRequest("a cat", steps=500))
    assert full.value.retry_after_s >= 1
    with pytest.raises(DeadlineExceeded, match="500 steps of this size take longer"):
        batcher.submit(GenerationRequest("a cat", steps=500), timeout_s=0.001)
    batcher.submit(GenerationRequest("a cat", steps=500), bulk=True)  # the other class has a queue of its own


def test_an_unknown_adapter_is_refused_with_the_known_ones(shared_batcher):
    with pytest.raises(ConfigError, match="lora=nobody is unknown; there are none"):
        shared_batcher.submit(GenerationRequest("a cat", lora="nobody"))


@pytest.mark.slow
def test_swapped_weights_generate_what_is_requested_after_them(make_batcher, small_model):
    other = replace(small_model, unet=copy.deepcopy(small_model.unet), key="other")
    other.unet.conv_out.weight *= 2
    batcher, request = make_batcher(), GenerationRequest("a cat", steps=4)
    before = [batcher.submit(request) for _ in range(3)]
    batcher.swap_model(other)
    after = batcher.submit(request)
    expected = [OfflineSampler(model, 4)([request])[0].tobytes() for model in (small_model, other)]
    assert {pending.future.result(WAIT_S) for pending in before} == {expected[0]}
    assert after.future.result(WAIT_S) == expected[1]
    assert batcher.limits().model_key == other.key


def test_closing_waits_for_pending_images_or_fails_them(make_batcher, images_alone):
    request, batcher = mixed_requests()[0], make_batcher()
    pending = batcher.submit(request)
    batcher.close(drain_s=WAIT_S)
    assert pending.future.result(0) == images_alone[request]
    batcher = make_batcher()
    pending = batcher.submit(GenerationRequest("a cat", steps=900))
    batcher.close()
    with pytest.raises(BatcherClosed):
        pending.future.result(0)


def test_the_limits_say_what_is_accepted(shared_batcher, small_model):
    limits = shared_batcher.limits()
    assert (limits.model_key, limits.width_px, limits.side_step_px, limits.max_side_px) == (small_model.key, 16, 4, 32)
    assert limits.schedulers[0] == "ddim" and limits.loras == ()


def test_variants_share_the_batcher_and_leave_its_own_pixels_alone(make_batcher, small_model):
    batcher, other = make_batcher(), replace(small_model, key="other")
    request = mixed_requests()[0]
    alone = batcher.submit(request).future.result(WAIT_S)
    assert not batcher.has_variant("pixel") and batcher.add_variant("pixel", other, base=small_model)
    pending = [batcher.submit(request, variant=name) for name in (None, "pixel", "", "pixel")]
    assert {image.future.result(WAIT_S) for image in pending} == {alone}
    assert len({image.bucket.model for image in pending}) == 2
    assert batcher.limits().loras == (), "requests cannot name variants as adapters"
    batcher.remove_variant("pixel")
    with pytest.raises(ConfigError):
        batcher.submit(request, variant="pixel")
    assert not batcher.add_variant("pixel", other, base=other), "made of another model than the one in use"
    batcher.add_variant("pixel", other)
    batcher.swap_model(small_model)
    assert not batcher.has_variant("pixel"), "it may have been a mix with the old weights"
