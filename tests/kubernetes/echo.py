"""A Ray Serve application for tests: `python -m tests.kubernetes.echo VERSION` deploys it, and it keeps running.

The port is 0 because the proxies of several nodes run on one machine here, so each needs a free port of its own.
"""

import asyncio
import os
import sys

import ray
from ray import serve


@serve.deployment(num_replicas=2, max_ongoing_requests=50, graceful_shutdown_timeout_s=30,
                  ray_actor_options={"num_cpus": 1})  # fmt: skip
class Echo:
    def __init__(self, version):
        self.version = version

    async def __call__(self, request):
        await asyncio.sleep(float(request.query_params.get("s", 0)))
        return {"version": self.version, "node": os.environ.get("TEST_NODE", "")}


def deploy(version, location="EveryNode"):
    ray.init(log_to_driver=False, logging_level="ERROR")
    serve.start(proxy_location=location, http_options={"host": "127.0.0.1", "port": 0})
    serve.run(Echo.bind(version), name="echo", route_prefix="/")


if __name__ == "__main__":
    deploy(sys.argv[1])
