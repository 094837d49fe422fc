"""The commands' fixtures: a real kubectl against an API server on loopback."""

from pathlib import Path

import pytest

from tests.kubernetes.conftest import api, cluster, manifests, ready, unchecked  # noqa: F401


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Tests here that run kubectl are slow: each starts a server, and a process for every question to it."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and "cluster" in item.fixturenames:
            item.add_marker(pytest.mark.slow)
