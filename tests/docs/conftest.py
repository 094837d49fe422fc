"""One local Ray for the tests of a page, in the working directory of a user."""

import os

import pytest
import ray

from emoji_ldm.config import RayConfig
from ray_jobs.execution import ray_runtime


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def local_ray(here, own_settings):
    """Stages find it and start none of their own, which would take seconds each; its workers too are `here`."""
    ray_runtime.connect(RayConfig(num_cpus=8, object_store_mb=200))
    yield here
    ray.shutdown()


@pytest.fixture(autouse=True)
def own_settings(monkeypatch):
    """Commands run as for a user who has set nothing."""
    monkeypatch.setenv("SERPAPI_API_KEY", "secret")  # before Ray starts: its workers read it
    for name in [name for name in os.environ if name.startswith(("AWS_", "EMOJI_LDM_", "RAY_ADDRESS"))]:
        monkeypatch.delenv(name)
