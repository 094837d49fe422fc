"""Fixtures of all tests of bulk jobs."""

import pytest

from emoji_ldm.store import Store


@pytest.fixture
def store(tmp_path):
    """An empty store in a local folder."""
    return Store(str(tmp_path / "store"))
