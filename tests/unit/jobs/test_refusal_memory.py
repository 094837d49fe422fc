"""Refusals without asking: as many calls as were accepted, then at once no."""

import time

import pytest

from ray_jobs.serving import refusal_memory
from ray_jobs.serving.refusal_memory import RefusalMemories, RefusalMemory


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def refuse(memory, refusal=7.0):
    with memory.counted():
        memory.note_refusal(refusal)


def test_after_a_refusal_no_more_are_admitted_than_were_in_flight(clock):
    memory = RefusalMemory()
    memory.in_flight = 30
    assert memory.known_refusal() is None
    refuse(memory)
    assert memory.known_refusal() == 7.0, "as it was put"
    memory.in_flight = 29
    assert memory.known_refusal() is None


def test_the_limit_grows_with_time_until_it_is_forgotten(clock):
    memory = RefusalMemory()
    memory.in_flight = 10
    refuse(memory)
    clock[0] += refusal_memory.DOUBLING_S
    memory.in_flight = 19
    assert memory.known_refusal() is None
    memory.in_flight = 20
    assert memory.known_refusal()
    memory.in_flight = 1000
    assert memory.known_refusal()
    clock[0] += refusal_memory.LONGEST_MEMORY_S
    assert memory.known_refusal() is None


def test_a_lone_call_is_always_offered(clock):
    memory = RefusalMemory()
    refuse(memory)
    assert memory.known_refusal() is None


def test_what_is_remembered_does_not_grow_with_the_kinds_that_were_asked_for(clock, monkeypatch):
    monkeypatch.setattr(refusal_memory, "MAX_MEMORIES", 4)
    memories = RefusalMemories()
    with memories.of("busy").counted():
        for number in range(50):
            memories.of(number)
        assert len(memories) <= 5 and memories.of("busy").in_flight == 1
