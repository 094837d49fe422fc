"""A tracker may fail or hang: training continues, with one note; its thread is abandoned if it hangs."""

from __future__ import annotations

import threading

import pytest
import torch

from emoji_ldm.errors import StoreError
from emoji_ldm.train.metrics.async_tracker import AsyncTracker, DaemonExecutor


def train(watch, steps, *, norm=1.0, start=0):
    """Log a line per two steps, all of the same norm."""
    for done in range(start + 2, start + steps + 1, 2):
        for _ in range(2):
            watch.record(torch.tensor(0.5), torch.tensor(float(norm)), 0.001)
        watch.log(watch.summarize_window(done), {})


class Broken:
    def log_lines(self, lines):
        raise ConnectionError("no route to host")

    def log_image(self, png, step, kind):
        raise ConnectionError("no route to host")

    def close(self, *, done):
        pass


def test_a_tracker_that_fails_is_turned_off_with_one_note():
    feed = AsyncTracker("MLflow", Broken, lambda: True)
    feed.log_lines([{"step": 1}])
    feed.log_image(b"", 1)
    feed.log_lines([{"step": 2}], last=True)
    feed.close()
    assert feed.notes() == ["MLflow failed and gets no more lines: ConnectionError: no route to host"]
    assert feed.notes() == []


def test_a_failure_after_a_success_is_noted_again():
    class Waits(Broken):
        errors = [StoreError("away"), None, StoreError("away"), StoreError("away"), RuntimeError("gone for good")]

        def log_lines(self, lines):
            if error := self.errors.pop(0):
                raise error

    feed = AsyncTracker("MLflow", Waits, lambda: True)
    for _ in range(5):
        feed.log_lines([{"step": 1}], last=True)
        feed._sending.result(20)
    waits = "MLflow waits: away"
    assert feed.notes() == [waits, waits, "MLflow failed and gets no more lines: RuntimeError: gone for good"]


def test_a_tracker_that_hangs_is_abandoned(monkeypatch):
    monkeypatch.setattr("emoji_ldm.train.metrics.async_tracker.CLOSE_TIMEOUT_S", 0.1)
    free = threading.Event()

    class Slow(Broken):
        def log_lines(self, lines):
            free.wait(20)

    feed = AsyncTracker("MLflow", Slow, lambda: True)
    feed.log_lines([{"step": 1}])
    feed.close()
    assert "did not answer" in feed.notes()[0]
    free.set()


def test_an_image_after_the_end_is_dropped():
    received = []

    class Recorder(Broken):
        def log_image(self, png, step, kind):
            received.append((step, kind))

    tracker = AsyncTracker("MLflow", Recorder, lambda: True)
    tracker.log_image(b"", 1)
    tracker.close()
    tracker.log_image(b"", 2)
    assert received == [(1, "samples")]
    assert tracker.notes() == []


def test_calls_run_in_order_and_give_results_or_errors():
    executor, seen = DaemonExecutor("test"), []
    futures = [executor.submit(seen.append, number) for number in range(5)]
    failed = executor.submit(lambda: 1 / 0)
    assert executor.submit(sum, [1, 2]).result(20) == 3
    assert [future.result(20) for future in futures] == [None] * 5
    assert seen == list(range(5))
    with pytest.raises(ZeroDivisionError):
        failed.result(20)
    assert executor.shutdown(20)


def test_a_call_that_hangs_is_abandoned_with_what_was_queued_behind_it():
    executor, release, ran = DaemonExecutor("test"), threading.Event(), []
    hanging = executor.submit(release.wait, 20)
    behind = executor.submit(ran.append, 1)
    assert not executor.shutdown(0.05)
    release.set()
    assert hanging.result(20)
    executor._thread.join(20)
    assert not ran and not behind.done()
    assert executor._thread.daemon
