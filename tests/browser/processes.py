"""Processes and files of a browser, for tests that nothing of it is left."""

import time
from pathlib import Path


def processes_of(folder):
    """Return the processes that were started with a browser's folder."""
    return [path for path in Path("/proc").glob("[0-9]*/cmdline") if folder.encode() in _content(path)]


def _content(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def assert_nothing_left(folder):
    deadline = time.monotonic() + 10
    while (left := processes_of(folder) or Path(folder).exists()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left
