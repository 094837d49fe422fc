"""A finished run, of which each test damages a copy of its own."""

import shutil

import pytest

from tests.torch_threads import one_thread, single_threaded  # noqa: F401
from tests.unit.train.tiny import run


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    with single_threaded():  # this runs before `one_thread`, and is compared bit by bit with what follows
        run(folder)
    return folder


@pytest.fixture
def trained(trained_once, tmp_path):
    """A run with checkpoints after 4 and 8 steps, and their folder, for one test alone."""
    return shutil.copytree(trained_once, tmp_path, dirs_exist_ok=True)
