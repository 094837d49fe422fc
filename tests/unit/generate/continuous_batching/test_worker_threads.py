"""The worker threads: errors fail what they concern and nothing else."""

import os
import sys
import threading

import psutil
import pytest
import torch

from emoji_ldm.errors import ConfigError, ModelError
from emoji_ldm.generate.continuous_batching.batcher_state import BatcherClosed
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.generate.unet_runner import DRAWING_NICENESS
from tests.generation_requests import mixed_requests

WAIT_S = 60
REQUEST = mixed_requests()[0]
UNREADABLE = GenerationRequest("a cat", image=b"no image", strength=0.5)


def test_a_request_that_cannot_be_encoded_fails_alone(shared_batcher, images_alone):
    good, bad, other = (shared_batcher.submit(request) for request in (REQUEST, UNREADABLE, REQUEST))
    assert good.future.result(WAIT_S) == other.future.result(WAIT_S) == images_alone[REQUEST]
    with pytest.raises(ConfigError, match="image cannot be read"):
        bad.future.result(WAIT_S)


def test_latents_that_cannot_be_decoded_fail_alone(make_batcher, monkeypatch):
    batcher = make_batcher(deterministic=False)
    encoder_decoder = batcher._models[""].encoder_decoder
    decode, calls = encoder_decoder.decode, []

    def broken_decode(latents):
        calls.append(len(latents))
        if len(calls) == 1 or len(latents) > 1:
            raise RuntimeError("decoder is broken")
        return decode(latents)

    monkeypatch.setattr(encoder_decoder, "decode", broken_decode)
    first = batcher.submit(REQUEST)
    assert isinstance(first.future.exception(WAIT_S), RuntimeError)
    others = [batcher.submit(REQUEST) for _ in range(4)]  # batches fail, each image by itself does not
    assert len({pending.future.result(WAIT_S) for pending in others}) == 1
    batcher.check()


def test_an_encoder_that_raises_fails_the_image_with_its_error(make_batcher):
    def refuse(pixels, request, model):
        raise ValueError("no such colour")

    pending = make_batcher(encode_image=refuse).submit(REQUEST)
    with pytest.raises(ValueError, match="no such colour"):
        pending.future.result(WAIT_S)


def test_a_thread_that_dies_fails_everything_and_is_reported(make_batcher):
    batcher = make_batcher()
    batcher.check()

    def broken_tick(rows):
        raise RuntimeError("illegal memory access")

    batcher._models[""].engine.tick = broken_tick
    images = [batcher.submit(GenerationRequest("a cat", steps=50)) for _ in range(9)]
    for pending in images:
        with pytest.raises(BatcherClosed, match="illegal memory access"):
            pending.future.result(WAIT_S)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        batcher.check()


def lacks_memory_for_large_latents(engine, min_rows):
    """Let ticks of at least so many rows of latents above the model's size fail; returns the rows of each try."""
    tick, tried = engine.tick, []

    def limited_tick(rows):
        if rows[0].x.shape[-1] > 8:
            tried.append(len(rows))
            if len(rows) >= min_rows:
                raise torch.OutOfMemoryError
        return tick(rows)

    engine.tick = limited_tick
    return tried


def test_a_batch_that_exceeds_the_memory_fails_and_later_ones_of_its_shape_are_smaller(make_batcher):
    batcher = make_batcher(deterministic=False)
    lacks_memory_for_large_latents(batcher._models[""].engine, 2)
    images = [batcher.submit(GenerationRequest("a cat", steps=4, width_px=32)) for _ in range(8)]
    neighbour = batcher.submit(REQUEST)
    failed = [pending for pending in images if pending.future.exception(WAIT_S)]
    assert len(failed) <= 2 and all(isinstance(pending.future.exception(), ModelError) for pending in failed)
    assert neighbour.future.result(WAIT_S)
    batcher.check()


def test_in_deterministic_mode_a_shape_without_enough_memory_is_refused_and_gets_no_other_batch(
    make_batcher, images_alone, monkeypatch
):
    batcher = make_batcher()
    large = GenerationRequest("a cat", steps=2, width_px=32)
    tried = lacks_memory_for_large_latents(batcher._models[""].engine, 1)
    for _ in range(2):
        assert isinstance(batcher.submit(large).future.exception(WAIT_S), ModelError)
    with pytest.raises(ConfigError, match=r"8 x 16 latents need more memory.*lower serve\.batch_size than 4"):
        batcher.submit(large)
    assert batcher.submit(REQUEST).future.result(WAIT_S) == images_alone[REQUEST]
    [profile] = [each for shape, each in batcher._models[""].shape_profiles.items() if shape[-1] > 8]
    assert profile.max_batch == batcher._models[""].engine.max_rows((4, 8, 16)) and len(tried) == 2
    profile.refused_until = 0.0  # the pause is over
    assert isinstance(batcher.submit(large).future.exception(WAIT_S), ModelError)


def test_previews_come_in_order_before_the_image(shared_batcher, images_alone):
    request, seen = mixed_requests()[4], []
    pending = shared_batcher.submit(request, num_previews=2, on_preview=lambda index, png: seen.append((index, png)))
    assert pending.future.result(WAIT_S) == images_alone[request]
    assert [index for index, _ in seen] == list(range(len(seen))) and seen
    assert all(png != images_alone[request] for _, png in seen)


@pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads are Linux's")
def test_threads_that_draw_on_a_cpu_let_the_others_go_before(make_batcher):
    before = {thread.id for thread in psutil.Process().threads()}
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    make_batcher().submit(REQUEST).future.result(WAIT_S)
    added = {thread.id for thread in psutil.Process().threads()} - before
    assert len(added) >= 3, "encode, step and decode"
    assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in added} == {max(own, DRAWING_NICENESS)}
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own
