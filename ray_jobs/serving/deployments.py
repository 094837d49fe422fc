"""The deployments of the HTTP service: an ingress, a pool of replicas per model, and who works off bulk jobs.

    Ingress   HTTP: checks requests, settles seeds, replays what dies with a replica (pools.py)
    <model>   one pool per model; a replica holds a Batcher, in which images of all requests share forward passes
    Sets      bulk jobs of the store, over the same pools

Images are the unit: a request for n images is n draws, each of which joins any batch.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.schema import LoggingConfig

from emoji_ldm.config import Config, ServeConfig
from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.checkpoint_resolver import CACHE_FOLDER, adapter_folder
from emoji_ldm.serve.app import build_api
from emoji_ldm.serve.auth import ApiKeyCache
from emoji_ldm.serve.backend import RequestLimits
from emoji_ldm.store import Store
from ray_jobs.serving.autoscaling import DrainTimePolicy
from ray_jobs.serving.model_registry import ServedModel, served_models
from ray_jobs.serving.replica import ModelReplica
from ray_jobs.serving.replica_router import ReplicaRouter
from ray_jobs.serving.request_log import RequestLogHandler
from ray_jobs.serving.service_metrics import BulkMetrics

NUM_CPUS = 0.5  # logical CPUs per sampler, which has one thread
LIGHT_CPUS = 0.1  # of the ingress and of the bulk runner each
SHUTDOWN_GRACE_S = 30.0  # beyond serve.timeout_s: what was accepted ends before its replica is stopped by force
DOWNSCALE_DELAY_S = 120.0  # before a replica that is not needed any more is stopped
HEALTH_S = 1.0  # a process that died is replaced so soon
METER_S = 1.0
MAX_ONGOING_REQUESTS = 10_000  # requests in one ingress at once; all they do there is wait


def application(config: Config) -> serve.Application:
    """The application of a configuration; models are settled here, so that all replicas load the same.

    Raises:
        ConfigError: Options contradict each other, or there is no file of keys.
        ModelError: There is no such model, or there are no such adapters.
    """
    settings = config.serve
    if settings.min_replicas > settings.max_replicas:
        raise ConfigError(
            f"serve.min_replicas={settings.min_replicas} is more than serve.max_replicas={settings.max_replicas}"
        )
    models = served_models(config)
    for name, value in settings.loras.items():
        adapter_folder(Store(config.store), CACHE_FOLDER, f"serve.loras.{name}", value)
    if settings.keys:
        ApiKeyCache(settings.keys)
    pools = {model.name: _pool(config, model) for model in models}
    limits = {model.name: model.limits for model in models}
    sets = _singleton(Sets, settings).bind(config, pools, limits)
    return _singleton(Ingress, settings).bind(config, pools, limits, sets)


def _pool(config: Config, model: ServedModel) -> serve.Application:
    settings = config.serve
    deployment = serve.deployment(ModelReplica).options(
        name=pool_name(model.name),
        # Waiting is done in the replica's fair queue: Serve must never hold back what the queue would take or refuse.
        max_ongoing_requests=2 * settings.max_queued + 8 * settings.batch_size,  # both classes, and what is in work
        max_queued_requests=settings.max_queued,  # per caller, while no replica is there to take them
        ray_actor_options={"num_cpus": NUM_CPUS, "num_gpus": settings.gpus_per_worker},
        autoscaling_config=_autoscaling(settings),
        max_surge_percent=100,  # a new version is up before the old one stops
        graceful_shutdown_timeout_s=settings.timeout_s + SHUTDOWN_GRACE_S, graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=HEALTH_S, health_check_timeout_s=30,
        logging_config=LoggingConfig(enable_access_log=False),
    )  # fmt: skip
    return deployment.bind(config, model)


def pool_name(model: str) -> str:
    """The deployment of a model."""
    return f"model-{model}"


def _autoscaling(settings: ServeConfig) -> AutoscalingConfig:
    with warnings.catch_warnings():
        # The environment variables that shall replace metrics_interval_s do nothing yet in Ray 2.60.
        warnings.simplefilter("ignore", DeprecationWarning)
        return AutoscalingConfig(
            min_replicas=settings.min_replicas, max_replicas=settings.max_replicas,
            initial_replicas=1 if settings.min_replicas == 0 else None,  # a start shows whether the model loads
            policy=AutoscalingPolicy(policy_function=DrainTimePolicy,
                                     policy_kwargs={"target_wait_s": settings.target_wait_s}),
            metrics_interval_s=2, look_back_period_s=6, upscale_delay_s=2, downscale_delay_s=DOWNSCALE_DELAY_S,
        )  # fmt: skip


def _singleton(kind: type[Any], settings: ServeConfig) -> Any:
    return serve.deployment(kind).options(
        num_replicas=1, max_ongoing_requests=MAX_ONGOING_REQUESTS, ray_actor_options={"num_cpus": LIGHT_CPUS}, max_surge_percent=100,
        health_check_period_s=HEALTH_S,
        graceful_shutdown_timeout_s=settings.timeout_s + 2 * SHUTDOWN_GRACE_S,  # outlives the pools that it waits for
        graceful_shutdown_wait_loop_s=0.5, logging_config=LoggingConfig(encoding="JSON", enable_access_log=False),
    )  # fmt: skip


class Sets:
    """Works off the bulk jobs of the store; another one in its place goes on from what is committed."""

    def __init__(self, config: Config, handles: Mapping[str, Any], limits: Mapping[str, RequestLimits]) -> None:
        """Begin at once."""
        from emoji_ldm.serve.bulk.job_runner import JobRunner

        settings = config.serve
        # Enough to fill all replicas while the next pictures are on their way, and no more than one of them queues.
        most = min(settings.max_queued, 4 * settings.batch_size * settings.max_replicas)
        self.runner = JobRunner(Store(config.store), ReplicaRouter(handles, limits, settings), max_in_flight=most)
        loop = asyncio.get_running_loop()
        self.work, self.measuring = loop.create_task(self.runner.run()), loop.create_task(self._measure(BulkMetrics()))

    def check_health(self) -> None:
        """Raise if the work has ended: it never does by itself."""
        for task in (self.work, self.measuring):
            if task.done():
                raise RuntimeError(f"the bulk runner has ended: {task.exception()!r}")

    async def _measure(self, meters: BulkMetrics) -> None:
        while True:
            meters.update(self.runner.stats())
            await asyncio.sleep(METER_S)

    def __del__(self) -> None:
        """Called by Serve before the process ends."""
        if hasattr(self, "work"):
            self.work.cancel()


@serve.ingress()
class Ingress:
    """The HTTP side: the routes, over the pools."""

    def __init__(
        self, config: Config, handles: Mapping[str, Any], limits: Mapping[str, RequestLimits], sets: Any
    ) -> None:
        """Keep the ways to the pools; `sets` is only to be deployed with it."""
        self.config, self.pools, self.lines = config, ReplicaRouter(handles, limits, config.serve), RequestLogHandler()

    def __serve_build_asgi_app__(self) -> Any:
        from emoji_ldm.serve.bulk.api.router import bulk_routes

        sets = bulk_routes(Store(self.config.store), self.pools)
        return build_api(self.pools, self.config.serve, routers=[sets], adds_request_id=False)

    async def log(self) -> list[str]:
        """Lines of the log of requests since the last time."""
        return await self.lines.take()
