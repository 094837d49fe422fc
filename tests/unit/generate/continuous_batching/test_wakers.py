"""Whoever ends an image wakes whoever waits: images leave at every point of their way, and those behind them go on.

The table of waits and wakers is in the text of the package.
"""

import threading
import time

import pytest

from tests.generation_requests import mixed_requests

WAIT_S = 60
REQUEST = mixed_requests()[0]
MAX_BATCH = 4
TIMEOUT_S = 0.2


class Gate:
    """Holds the calls of a function back, from the `first` one on, until it is opened."""

    def __init__(self, work, first=1):
        self.work, self.first, self.num_calls = work, first, 0
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, *arguments):
        self.num_calls += 1
        if self.num_calls >= self.first:
            self.reached.set()
            assert self.opened.wait(WAIT_S)
        return self.work(*arguments)


@pytest.fixture
def batcher(make_batcher):
    """A batcher that admits everything: predictions of a busy machine are not what is tested."""
    batcher = make_batcher(batch_size=MAX_BATCH)
    batcher._state._admission.check = lambda *_, **__: None
    return batcher


def gate_at(batcher, point):
    """Put a gate at the point of the way where images are to leave."""
    model = batcher._models[""]
    owner, name, first = {
        "encoding": (model.encoder_decoder, "encode", 1),
        "waiting behind an encoded row": (model.encoder_decoder, "encode", 2),
        "first step": (model.engine, "tick", 1),
        "middle step": (model.engine, "tick", REQUEST.steps // 2),
        "last step": (model.engine, "tick", REQUEST.steps),
        "decoding": (model.encoder_decoder, "decode", 1),
        "sending": (batcher._workers, "_encode_image", 1),
    }[point]
    gate = Gate(getattr(owner, name), first)
    setattr(owner, name, gate)
    return gate


POINTS = ("encoding", "waiting behind an encoded row", "first step", "middle step", "last step", "decoding", "sending")


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("end", ["cancelled", "expired"])
def test_images_behind_those_that_leave_are_drawn(batcher, becomes_idle, end, point):
    gate = gate_at(batcher, point)
    timeout = {"timeout_s": TIMEOUT_S} if end == "expired" else {}
    # As many as fill the running and the ready rows; some of them are at the point, the others wait before it.
    leaving = [batcher.submit(REQUEST, **timeout) for _ in range(2 * MAX_BATCH)]
    assert gate.reached.wait(WAIT_S)
    behind = [batcher.submit(REQUEST) for _ in range(3)]
    # The encode thread shall have come as far as it can, and stand still.
    time.sleep(0.05)
    for pending in leaving if end == "cancelled" else ():
        pending.cancel()
    time.sleep(0.05 if end == "cancelled" else TIMEOUT_S)
    gate.opened.set()
    assert len({pending.future.result(WAIT_S) for pending in behind}) == 1
    assert becomes_idle(batcher)
    batcher.check()


def test_an_image_that_leaves_before_its_admission_holds_nobody_up(batcher, becomes_idle):
    gone = batcher.submit(REQUEST, timeout_s=0.0)
    assert batcher.submit(REQUEST).future.result(WAIT_S)
    assert gone.future.exception(WAIT_S) is not None
    assert becomes_idle(batcher)


def test_a_tick_that_fails_for_want_of_memory_wakes_those_behind(batcher, becomes_idle):
    import torch

    engine = batcher._models[""].engine
    tick, calls = engine.tick, []

    def limited(rows):
        calls.append(len(rows))
        if len(calls) == 1:
            raise torch.OutOfMemoryError
        return tick(rows)

    engine.tick = limited
    images = [batcher.submit(REQUEST) for _ in range(3 * MAX_BATCH)]
    assert sum(pending.future.exception(WAIT_S) is None for pending in images) >= 2 * MAX_BATCH
    assert becomes_idle(batcher)
