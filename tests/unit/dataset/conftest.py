"""An empty store in a folder."""

import pytest

from emoji_ldm.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "my store"))
