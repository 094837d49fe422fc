"""Calls run one after another in a thread that is abandoned if it hangs."""

import threading

import pytest

from emoji_ldm.train.daemon_executor import DaemonExecutor


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
