"""Progress of single URLs: reports of workers, and commits that replace them."""

from types import SimpleNamespace

import pytest

from emoji_ldm.progress import ProgressTracker
from ray_jobs.execution import live_progress
from ray_jobs.execution.live_progress import DONE, LiveProgress, ProgressBoard, ShardReporter


class Remote:
    """An actor's handle whose calls run at once."""

    def __init__(self, actor):
        self.actor = actor

    def __getattr__(self, name):
        return SimpleNamespace(remote=getattr(self.actor, name))


@pytest.fixture
def board(monkeypatch):
    handle = Remote(ProgressBoard())
    monkeypatch.setattr(live_progress, "start_board", lambda: handle)
    monkeypatch.setattr(live_progress.ray, "get", lambda answer: answer)
    return handle


@pytest.fixture
def shown(board, monkeypatch):
    """A display of 10 items of which 4 are done, and all that it showed as (done, kept)."""
    tracker, seen = ProgressTracker("crawl", 10, "images", None), []
    live = LiveProgress(tracker, {DONE: 4, "kept": 3}, lambda counts: f"{counts['kept']}")
    monkeypatch.setattr(
        tracker, "advance",
        lambda count, note: (setattr(tracker, "done", tracker.done + count), seen.append((tracker.done, note))),
    )  # fmt: skip
    return live, seen


def poll(live):
    """One look at the board, without waiting."""

    class Once:
        waits = iter([False, True])

        def wait(self, _):
            return next(self.waits)

    live._follow(Once())


def test_urls_count_while_their_shard_is_under_way_and_once_when_it_is_committed(shown, board, monkeypatch):
    live, seen = shown
    monkeypatch.setattr(live_progress, "REPORT_INTERVAL_S", 0)
    reporter = ShardReporter(board)
    reporter.begin("first")
    reporter.add(kept=1)
    reporter.add(dead=1)
    poll(live)
    assert seen[-1] == (6, "4")
    live.commit("first", {DONE: 2, "kept": 1, "dead": 1})
    poll(live)
    assert seen[-1] == (6, "4") and board.actor.shards == {}
    reporter.add(kept=1)  # a report that arrives after the commit of its shard
    poll(live)
    assert seen[-1] == (6, "4")


def test_a_shard_that_is_done_again_replaces_its_first_attempt(shown, board, monkeypatch):
    live, seen = shown
    monkeypatch.setattr(live_progress, "REPORT_INTERVAL_S", 0)
    for _ in range(2):
        reporter = ShardReporter(board)
        reporter.begin("first")
        reporter.add(kept=1)
    poll(live)
    assert seen[-1] == (5, "4")


def test_more_pages_than_planned_raise_the_total(shown):
    live, seen = shown
    live.commit("first", {DONE: 9, "kept": 9})
    assert (live.tracker.total, seen[-1]) == (13, (13, "12"))


def test_without_a_board_nothing_is_reported():
    reporter = ShardReporter(None)
    reporter.begin("first")
    reporter.add(kept=1)
