"""Slots of one host: never more than there are, shared fairly, with pauses that grow."""

import random

from emoji_ldm.crawl.politeness.host_slots import GIVE_UP_S, MAX_HOST_PAUSE_S, MAX_LATENCY_S, HostSlots
from emoji_ldm.crawl.politeness.request_permits import NO_ANSWER


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


def test_a_host_that_does_nothing_but_refuse_is_given_up_after_a_minute_and_asked_again_later():
    host, now = HostSlots(8), 100.0
    while host.ready_at - now <= MAX_HOST_PAUSE_S:
        now = max(now, host.ready_at)
        host.record_response(503, 0, now)
        assert now <= 100 + MAX_HOST_PAUSE_S
    assert host.ready_at - now == GIVE_UP_S
    now = host.ready_at
    host.record_response(503, 5, now)
    assert host.ready_at - now == 5


def test_a_host_that_never_answers_is_given_up_after_a_minute_and_asked_again_later():
    host, now = HostSlots(8), 100.0
    while host.ready_at <= now:
        host.record_response(NO_ANSWER, 0, now)
        now += 10
        assert now <= 100 + MAX_HOST_PAUSE_S + 20
    assert host.paused_until == now - 10 + GIVE_UP_S
    now = host.ready_at
    host.record_response(NO_ANSWER, 0, now)
    assert host.ready_at <= now, "a series of its own begins"


def test_an_answer_of_any_kind_ends_a_silence_and_so_does_a_long_time_without_requests():
    answered, seldom = HostSlots(8), HostSlots(8)
    for now in range(0, 1000, 10):
        answered.record_response(NO_ANSWER, 0, now)
        if now % 50 == 0:
            answered.record_response(500, 0, now)
    for now in range(0, 10_000, 500):
        seldom.record_response(NO_ANSWER, 0, now)
    assert (answered.ready_at, seldom.ready_at) == (0, 0)


def test_overloads_far_apart_are_no_series():
    host = HostSlots(8)
    for now in range(0, 10_000, 500):
        host.record_response(503, 0, now)
        assert host.ready_at - now <= 10


def test_pauses_with_good_responses_between_them_never_end_a_host():
    host, now = HostSlots(8), 0.0
    for _ in range(50):
        host.record_response(429, 20, now)
        now = host.ready_at
        host.record_response(200, 0, now)
    assert now == 1000


def test_a_rate_counts_from_start_to_start_and_a_crawl_delay_from_the_end():
    rate, delay = HostSlots(1, min_interval_s=2.0), HostSlots(1, delay_s=2.0)
    for host in (rate, delay):
        host.finish_request(10.0, 11.5)
    assert (rate.ready_at, delay.ready_at) == (10.0 + MAX_LATENCY_S + 2.0, 13.5)
    rate.finish_request(20.0, 20.01)
    assert rate.ready_at == 22.01, "the request may have reached the server only at its end"
