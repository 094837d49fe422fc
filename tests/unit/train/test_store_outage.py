"""A save waits for a store that is away, and for nothing else."""

import errno
import os
import threading
import time

import pytest

from emoji_ldm.errors import JobError, StoreError
from emoji_ldm.store import Store
from emoji_ldm.train import store_outage
from emoji_ldm.train.store_outage import is_disk_full, outlast_outage

S3 = Store("s3://bucket/prefix")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(store_outage, "FIRST_PAUSE_S", 0.001)


def failing(times, error):
    """Work that raises `error` so many times, then returns the number of calls."""
    calls = []

    def work():
        calls.append(0)
        if len(calls) <= times:
            raise error
        return len(calls)

    return work


def test_a_save_is_tried_again_until_the_store_is_back_and_says_so_twice():
    notes = []
    work = failing(3, StoreError("cannot write x in s3://bucket: connection refused"))
    assert outlast_outage(S3, work, notes.append, threading.Event()) == 4
    assert notes[0].startswith("a checkpoint waits, training goes on: cannot write x")
    assert "the store is back after 0 s" in notes[1] and len(notes) == 2


def test_a_save_that_works_says_nothing():
    assert outlast_outage(S3, failing(0, StoreError("")), pytest.fail, threading.Event()) == 1


@pytest.mark.parametrize(("store", "error"), [
    ("s3", JobError("another driver took over")),
    ("s3", StoreError("cannot write: No space left on device")),
    ("s3", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
    ("local", StoreError("permission denied")),
])  # fmt: skip
def test_errors_that_waiting_does_not_cure_are_raised_at_once(store, error, tmp_path):
    where = S3 if store == "s3" else Store(str(tmp_path))
    work = failing(1, error)
    with pytest.raises(type(error)):
        outlast_outage(where, work, lambda _: None, threading.Event())
    assert work() == 2, "one call was made"


def test_a_training_that_ends_does_not_wait(monkeypatch):
    monkeypatch.setattr(store_outage, "FIRST_PAUSE_S", 100.0)
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    began = time.monotonic()
    with pytest.raises(StoreError, match="away"):
        outlast_outage(S3, failing(9, StoreError("away")), lambda _: None, stop)
    assert time.monotonic() - began < 20


def test_a_full_disk_is_known_by_its_number_or_its_text():
    assert is_disk_full(OSError(errno.EDQUOT, "quota")) and is_disk_full(StoreError("x: No space left on device"))
    assert not is_disk_full(StoreError("connection refused"))
