"""Fixtures of the service."""

import pytest


@pytest.fixture
def path(tmp_path):
    """Of a key file that does not exist yet."""
    return str(tmp_path / "keys.json")
