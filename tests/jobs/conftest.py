"""One local Ray for all job tests: starting it costs ten seconds."""

import pytest
import ray

from emoji_ldm.config import ClusterConfig
from ray_jobs import cluster


@pytest.fixture(scope="session", autouse=True)
def local_ray():
    cluster.connect(ClusterConfig(num_cpus=8, object_store_mb=200))
    yield
    ray.shutdown()
