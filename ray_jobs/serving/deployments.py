"""The deployments of the HTTP service: an ingress, replicas of each model, and a runner of bulk jobs.

    Ingress      HTTP: checks requests, fixes seeds, routes images to replicas (replica_router.py)
    model-<name> one deployment per model; a replica holds a ContinuousBatcher, in which images of all requests share
                 forward passes
    Sets         runs the bulk jobs of the store, over the same replicas

Images are the unit of work: a request for n images is n tasks, each of which may join any batch.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Mapping, Sequence
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
from emoji_ldm.serve.datasets.dataset_routes import dataset_routes
from emoji_ldm.serve.host_check import require_keys, served_hosts
from emoji_ldm.serve.model_catalog import ModelCatalog
from emoji_ldm.serve.nearest_images import nearest_routes
from emoji_ldm.serve.registry_routes import registry_routes
from emoji_ldm.serve.runs.run_routes import run_routes
from emoji_ldm.serve.tracing import check_exporter
from emoji_ldm.store import Store
from ray_jobs.serving.autoscaling import DrainTimePolicy, least_replicas
from ray_jobs.serving.model_registry import ServedModel, served_models
from ray_jobs.serving.replica import ModelReplica
from ray_jobs.serving.replica_router import ReplicaRouter
from ray_jobs.serving.request_log import RequestLogHandler
from ray_jobs.serving.service_metrics import BulkMetrics

# Logical CPUs per replica. Its sampler has one thread, which mostly waits for the GPU.
NUM_CPUS = 0.5
# Of the ingress and of the bulk runner, which wait for replicas and for the store.
LIGHT_CPUS = 0.1
SHUTDOWN_GRACE_S = 30.0  # beyond serve.timeout_s: accepted images end before their replica is killed
# Before a replica that is no longer needed is stopped. To start one again costs loading a model, so a pause of a minute
# between two bursts shall not stop it.
DOWNSCALE_DELAY_S = 120.0
HEALTH_CHECK_S = 1.0  # a dead process is noticed within this time
METRICS_INTERVAL_S = 1.0
# In the ingress requests only wait, each as a coroutine; queues with limits are in the replicas.
MAX_ONGOING_REQUESTS = 10_000


def checked_models(config: Config) -> list[ServedModel]:
    """Check a configuration and return its models; everything that can be wrong with it is found here.

    Raises:
        ConfigError: Options contradict each other, or there is no file of keys.
        ModelError: There is no such model, or there are no such adapters.
    """
    settings = config.serve
    require_keys(settings)
    check_exporter()
    if least_replicas(settings) > settings.max_replicas:
        raise ConfigError(
            f"serve.min_replicas={settings.min_replicas} is more than serve.max_replicas={settings.max_replicas}"
        )
    models = served_models(config)
    for name, value in settings.loras.items():
        adapter_folder(Store(config.store), CACHE_FOLDER, f"serve.loras.{name}", value)
    if settings.keys:
        ApiKeyCache(settings.keys)
    return models


def application(config: Config, models: Sequence[ServedModel]) -> serve.Application:
    """Return the application of a configuration and its models, which all replicas load as they were resolved."""
    settings = config.serve
    replicas = {model.name: _replicas(config, model) for model in models}
    # Limits are read from the files of the models, so that routes can answer while no replica runs.
    limits = {model.name: model.limits for model in models}
    # Bound as an argument of the ingress, which is how Serve learns that it belongs to the application.
    sets = _singleton(Sets, settings).bind(config, replicas, limits)
    return _singleton(Ingress, settings).bind(config, replicas, limits, sets)


def _replicas(config: Config, model: ServedModel) -> serve.Application:
    settings = config.serve
    deployment = serve.deployment(ModelReplica).options(
        name=deployment_name(model.name),
        # Requests wait in the replica's fair queue: Serve must not hold back what that queue would accept or refuse.
        # The limit is therefore above what can ever be there: the queues of both classes, and what is in progress.
        max_ongoing_requests=2 * settings.max_queued + 8 * settings.batch_size,
        max_queued_requests=settings.max_queued,  # per caller, while there is no replica
        ray_actor_options={"num_cpus": NUM_CPUS, "num_gpus": settings.gpus_per_worker},
        autoscaling_config=_autoscaling(settings),
        max_replicas_per_node=settings.max_replicas_per_node,
        # A new version is ready before the old one stops, so that a deployment costs no request.
        max_surge_percent=100,
        graceful_shutdown_timeout_s=settings.timeout_s + SHUTDOWN_GRACE_S, graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=HEALTH_CHECK_S, health_check_timeout_s=30,
        logging_config=LoggingConfig(enable_access_log=False),
    )  # fmt: skip
    return deployment.bind(config, model)


def deployment_name(model: str) -> str:
    """Return the name of a model's deployment."""
    return f"model-{model}"


def _autoscaling(settings: ServeConfig) -> AutoscalingConfig:
    with warnings.catch_warnings():
        # The environment variables that are to replace metrics_interval_s have no effect yet in Ray 2.60.
        warnings.simplefilter("ignore", DeprecationWarning)
        return AutoscalingConfig(
            min_replicas=least_replicas(settings), max_replicas=settings.max_replicas,
            initial_replicas=1 if settings.min_replicas == 0 else None,  # so that a start shows whether the model loads
            policy=AutoscalingPolicy(policy_function=DrainTimePolicy,
                                     policy_kwargs={"target_wait_s": settings.target_wait_s}),
            metrics_interval_s=2, look_back_period_s=6, upscale_delay_s=2, downscale_delay_s=DOWNSCALE_DELAY_S,
        )  # fmt: skip


def _singleton(kind: type[Any], settings: ServeConfig) -> Any:
    """Return a deployment of one light replica."""
    return serve.deployment(kind).options(
        num_replicas=1, max_ongoing_requests=MAX_ONGOING_REQUESTS, max_surge_percent=100,
        ray_actor_options={"num_cpus": LIGHT_CPUS},
        health_check_period_s=HEALTH_CHECK_S,
        graceful_shutdown_timeout_s=settings.timeout_s + 2 * SHUTDOWN_GRACE_S,  # outlives the replicas it waits for
        graceful_shutdown_wait_loop_s=0.5, logging_config=LoggingConfig(encoding="JSON", enable_access_log=False),
    )  # fmt: skip


class Sets:
    """Runs the bulk jobs of the store; a replacement continues from what is committed."""

    def __init__(self, config: Config, handles: Mapping[str, Any], limits: Mapping[str, RequestLimits]) -> None:
        """Start at once; to be created in an event loop."""
        from emoji_ldm.serve.bulk.job_runner import JobRunner
        from emoji_ldm.serve.bulk.webhooks import WebhookSender

        settings = config.serve
        # Enough to fill all replicas while the next images are on their way, and no more than one replica queues.
        most = min(settings.max_queued, 4 * settings.batch_size * settings.max_replicas)
        self.runner = JobRunner(
            Store(config.store), ReplicaRouter(handles, limits, settings, ModelCatalog(config)), max_in_flight=most
        )
        loop = asyncio.get_running_loop()
        # References are kept, since an event loop holds its tasks only weakly: one without a reference may be
        # collected.
        self.run_task = loop.create_task(self.runner.run())
        self.metrics_task = loop.create_task(self._export(BulkMetrics()))
        self.webhook_task = loop.create_task(WebhookSender(self.runner.jobs, settings.webhook_hosts).run())

    def check_health(self) -> None:
        """Raise if a task has ended, which none does by itself."""
        for task in (self.run_task, self.metrics_task, self.webhook_task):
            if task.done():
                raise RuntimeError(f"the bulk runner has ended: {task.exception()!r}")

    async def _export(self, metrics: BulkMetrics) -> None:
        while True:
            metrics.update(self.runner.stats())
            await asyncio.sleep(METRICS_INTERVAL_S)

    def __del__(self) -> None:
        """Stop the runner: Serve calls this before the process ends."""
        # A constructor that raised leaves an object without tasks, which is finalised all the same.
        if hasattr(self, "run_task"):
            self.run_task.cancel()


@serve.ingress()
class Ingress:
    """The HTTP side: the routes, over the replicas."""

    def __init__(
        self, config: Config, handles: Mapping[str, Any], limits: Mapping[str, RequestLimits], sets: Any
    ) -> None:
        """Route to these deployments; `sets` is an argument only to be deployed with the ingress."""
        self.config, self.catalog, self.request_log = config, ModelCatalog(config), RequestLogHandler()
        self.router = ReplicaRouter(handles, limits, config.serve, self.catalog)

    def __serve_build_asgi_app__(self) -> Any:
        from emoji_ldm.serve.bulk.api.router import bulk_routes
        from emoji_ldm.ui.studio_routes import studio_routes

        # The routes read and write the store themselves; runner and routes meet only there, so neither needs the other
        # to be up.
        store = Store(self.config.store)
        routers = [
            bulk_routes(store, self.router, self.config.serve.webhook_hosts),
            registry_routes(self.catalog),
            nearest_routes(self.catalog, self.router),
            dataset_routes(self.config),
            run_routes(self.catalog),
            studio_routes(),
        ]
        return build_api(self.router, self.config.serve, routers=routers,
                         adds_request_id=False, store=store,
                         hosts=served_hosts(self.config.serve))  # fmt: skip

    async def log(self) -> list[str]:
        """Return the lines of the request log since the last call."""
        return await self.request_log.drain()
