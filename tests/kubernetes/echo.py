"""A Serve application for the tests of clusters: `python -m tests.kubernetes.echo VERSION` deploys it and leaves it there.

Port 0: the proxies of several nodes live on one machine here, so each takes a free port of its own.
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
