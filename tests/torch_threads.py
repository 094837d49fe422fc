"""One CPU thread for tests with tiny networks: the quickest, and the same bits each time.

The number of threads decides in what order numbers are summed up, so trainings that are compared bit by bit need the
same number. A fixture of a wider scope than `one_thread` runs before it and has to use `single_threaded` itself.
"""

from contextlib import contextmanager

import pytest


@contextmanager
def single_threaded():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    with single_threaded():
        yield
