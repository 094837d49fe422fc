"""Deploys the application as `serve` does by default: `python -m tests.kubernetes.emoji_service MODEL STORE`.

It keeps running. Proxies run on every node, as in a RayService; port 0, since all nodes are one machine here.
"""

import sys

import ray
from ray import serve

from emoji_ldm.config import build
from ray_jobs.serving.autoscaling import with_default_replicas
from ray_jobs.serving.deployments import application, checked_models


def deploy(model, store):
    config = build({"run": "tiny", "store": store, "serve": {"checkpoint": model}}, where="test")
    settings = with_default_replicas(config.serve, num_cores=2, num_gpus=0)
    config = config.model_copy(update={"serve": settings})
    ray.init(log_to_driver=False, logging_level="ERROR")
    serve.start(proxy_location="EveryNode", http_options={"host": "127.0.0.1", "port": 0})
    serve.run(application(config, checked_models(config)), name="emoji-ldm", route_prefix="/")


if __name__ == "__main__":
    deploy(*sys.argv[1:])
