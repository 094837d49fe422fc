"""One local Ray for all job tests: starting it costs ten seconds."""

import pytest
import ray

from emoji_ldm.config import RayConfig
from ray_jobs.execution import ray_runtime


@pytest.fixture(scope="session", autouse=True)
def local_ray():
    ray_runtime.connect(RayConfig(num_cpus=8, object_store_mb=200))
    yield
    ray.shutdown()
