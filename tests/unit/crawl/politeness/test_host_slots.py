"""Slots of one host: never more than there are, shared fairly, with pauses that grow."""

import random

from emoji_ldm.crawl.politeness.host_slots import HostSlots


def test_the_number_of_slots_is_never_exceeded_and_every_worker_is_served():
    rng, host, held, served = random.Random(1), HostSlots(5), {}, set()
    for step in range(4000):
        holder = f"w{rng.randrange(8)}"
        num_released = rng.randrange(held.get(holder, 0) + 1)
        held[holder] = host.request_slots(holder, held.get(holder, 0) - num_released, rng.randrange(1, 9), step * 0.1)
        served |= {holder for holder, slots in held.items() if slots}
        assert sum(host.held.values()) <= 5
        if step % 500 == 0:
            served.clear()
        elif step % 500 == 499:
            assert len(served) == 8


def test_slots_that_one_worker_does_not_want_go_to_the_others():
    host = HostSlots(8)
    assert host.request_slots("a", 0, 8, 0.0) == 8
    assert host.request_slots("b", 0, 2, 0.0) == 0
    assert host.request_slots("a", 8, 8, 0.1) == 6
    assert host.request_slots("a", 6, 8, 0.2) == 6
    assert host.request_slots("b", 0, 2, 0.3) == 2


def test_the_pause_of_an_overloaded_host_doubles_until_a_good_response():
    host, now, pauses = HostSlots(8), 100.0, []
    for _ in range(4):
        host.record_response(503, 0, now)
        pauses.append(host.ready_at - now)
        now = host.ready_at
    assert pauses == [0.25, 0.5, 1, 2]
    host.record_response(200, 0, now)
    host.record_response(503, 0, now)
    assert host.ready_at - now == 0.25
