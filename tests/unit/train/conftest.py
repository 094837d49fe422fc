"""One thread, which tiny networks are quickest with; a run that many tests spoil each for itself."""

import shutil

import pytest
import torch

from tests.unit.train.tiny import run


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    run(folder)
    return folder


@pytest.fixture
def trained(trained_once, tmp_path):
    """A run with checkpoints after 4 and 8 steps, and their folder, for one test alone."""
    return shutil.copytree(trained_once, tmp_path, dirs_exist_ok=True)
