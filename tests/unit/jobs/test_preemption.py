"""Notices of preemption: a save when one comes, one more before the node goes, and few questions."""

import itertools
import time

import ray.train

from ray_jobs.execution import preemption


def test_a_notice_asks_for_two_saves_and_another_node_for_two_more(monkeypatch):
    told, clock = [None], [1000.0]
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: told[0])
    monkeypatch.setattr(time, "time", lambda: clock[0])
    asks = preemption.PreemptionNotice()
    asks._steps = lambda: 1
    answers = []
    for clock[0], node in ((1000, ""), (1001, "a"), (1010, "a"), (1085, "a"), (1095, "a"), (1100, "ab"), (1110, "ab")):
        if node:
            told[0] = ray.train.PreemptionInfo(deadline_ms=1_100_000, preempted_node_to_ranks={n: [0] for n in node})
        answers.append(asks())
    assert answers == [False, True, False, True, False, True, True]


def test_ray_is_asked_every_few_seconds_not_at_every_step(monkeypatch):
    asked, clock = [], [0.0]
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: asked.append(clock[0]))
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    asks = preemption.PreemptionNotice()
    for _ in range(3000):
        clock[0] += 0.01
        asks()
    assert len(asked) < 20
    assert max(later - sooner for sooner, later in itertools.pairwise(asked)) < preemption.POLL_INTERVAL_S + 0.1
