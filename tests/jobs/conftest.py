"""One local Ray for all job tests: starting it costs ten seconds."""

import pytest
import ray

from emoji_ldm.config import RayConfig
from ray_jobs.execution import ray_runtime


@pytest.fixture(scope="session", autouse=True)
def ray_ends_with_the_tests():
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def local_ray(ray_ends_with_the_tests):
    """Started where none runs: some tests end it, and Ray would start another by itself, with other settings."""
    ray_runtime.connect(RayConfig(num_cpus=8, object_store_mb=200))
