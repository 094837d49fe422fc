"""The Pods that objects result in, with what operators add."""

from emoji_ldm.kubernetes.lint.pods import pods
from tests.manifests.good import GONE, edited


def test_the_job_that_empties_redis_runs_with_the_head_s_settings():
    obj, _ = edited("RayService/serve", {})
    (cleanup,) = [pod for pod in pods([obj]) if pod.role == "cleanup"]
    assert [one["name"] for one in cleanup.containers] == ["ray-head"]
    bare, _ = edited("RayService/serve", {"spec.rayClusterConfig.gcsFaultToleranceOptions": GONE})
    assert not [pod for pod in pods([bare]) if pod.role == "cleanup"]
