"""A run that many tests spoil, each for itself."""

import shutil

import pytest

from tests.torch_threads import one_thread  # noqa: F401
from tests.unit.train.tiny import run


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    run(folder)
    return folder


@pytest.fixture
def trained(trained_once, tmp_path):
    """A run with checkpoints after 4 and 8 steps, and their folder, for one test alone."""
    return shutil.copytree(trained_once, tmp_path, dirs_exist_ok=True)
