"""Real gloo ranks, and the training that theirs are held against."""

from __future__ import annotations

import pytest

from tests.gloo_ranks import Ranks
from tests.train import ranks_engine


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two ranks of each file's own: DeepSpeed changes the arithmetic of a process, so FSDP2 gets others."""
    with Ranks(2, tmp_path_factory.mktemp("meet")) as group:
        yield group


@pytest.fixture(scope="session")
def alone():
    """Norms and weights of the plain engine on the whole batch."""
    return ranks_engine.same_training(0, 1)
