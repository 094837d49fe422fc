"""Refusals without a remote call: as many images as were accepted, then at once no."""

import time

import pytest

from emoji_ldm.serve.backend import Overloaded
from ray_jobs.serving import refusal_memory
from ray_jobs.serving.refusal_memory import RefusalMemory


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def refuse(memory):
    with pytest.raises(Overloaded), memory.admitted():
        raise Overloaded(7.0)


OPEN = []  # a block that nobody refers to would be closed


def enter(memory, count):
    for _ in range(count):
        block = memory.admitted()
        block.__enter__()
        OPEN.append(block)


def test_after_a_refusal_no_more_are_admitted_than_were_in_flight(clock):
    memory = RefusalMemory()
    enter(memory, 30)
    refuse(memory)
    with pytest.raises(Overloaded) as known:
        enter(memory, 1)
    assert known.value.retry_after_s == 7.0, "the replica's own advice"
    OPEN.pop().__exit__(None, None, None)
    enter(memory, 1)
    assert memory.in_flight == 30


def test_the_limit_grows_with_time_until_it_is_forgotten(clock):
    memory = RefusalMemory()
    enter(memory, 10)
    refuse(memory)
    clock[0] += refusal_memory.DOUBLING_S
    enter(memory, 10)
    with pytest.raises(Overloaded):
        enter(memory, 1)
    clock[0] += refusal_memory.LONGEST_MEMORY_S
    enter(memory, 1000)


def test_a_lone_image_is_always_offered(clock):
    memory = RefusalMemory()
    refuse(memory)
    enter(memory, 1)
    assert memory.in_flight == 1
