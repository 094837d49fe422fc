"""Preemption notices: a save at the notice, one more before the node goes, and few questions to Ray."""

import itertools
import time

import ray.train

from ray_jobs.execution import preemption


def test_a_notice_must_save_for_two_saves_and_another_node_for_two_more(monkeypatch):
    notice, clock = [None], [1000.0]
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: notice[0])
    monkeypatch.setattr(time, "time", lambda: clock[0])
    must_save = preemption.PreemptionNotice()
    must_save._steps_to_next_poll = lambda: 1
    answers = []
    for clock[0], node in ((1000, ""), (1001, "a"), (1010, "a"), (1085, "a"), (1095, "a"), (1100, "ab"), (1110, "ab")):
        if node:
            notice[0] = ray.train.PreemptionInfo(deadline_ms=1_100_000, preempted_node_to_ranks={n: [0] for n in node})
        answers.append(must_save())
    assert answers == [False, True, False, True, False, True, True]


def test_ray_is_asked_every_few_seconds_not_at_every_step(monkeypatch):
    asked, clock = [], [0.0]
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: asked.append(clock[0]))
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    must_save = preemption.PreemptionNotice()
    for _ in range(3000):
        clock[0] += 0.01
        must_save()
    assert len(asked) < 20
    assert max(later - sooner for sooner, later in itertools.pairwise(asked)) < preemption.POLL_INTERVAL_S + 0.1
