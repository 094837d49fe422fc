"""Serve models over HTTP with Ray Serve: here until Ctrl-C, or as the application of a RayService."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import time
from contextlib import redirect_stdout
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import HTTPOptions
from ray.serve.exceptions import RayServeException
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from emoji_ldm.config import Config, load
from emoji_ldm.dataset.checkpoints import newest_checkpoint
from emoji_ldm.errors import JobError, StoreError, UntrainedError
from emoji_ldm.progress import print_status
from emoji_ldm.serve import tracing
from emoji_ldm.serve.auth import unauthenticated_warning
from emoji_ldm.serve.host_check import is_loopback
from emoji_ldm.store import Store
from ray_jobs.execution import ray_runtime
from ray_jobs.serving.autoscaling import least_replicas, with_default_replicas
from ray_jobs.serving.deployments import LIGHT_CPUS, NUM_CPUS, application, checked_models
from ray_jobs.serving.endpoint import curl, free_port, metrics_url
from ray_jobs.serving.service_metrics import APP

# How often a service that waits looks for a checkpoint.
CHECKPOINT_POLL_S = 15.0
# How long a new cluster may take to set up its store. The wait for a checkpoint has no such limit: a first training
# may take days, while a store that does not answer after a quarter of an hour is misconfigured.
STORE_SETUP_TIMEOUT_S = 900.0
# Ray Serve's own limit counts until the last byte was sent, so it must allow a ZIP of a large set over a slow line.
# Generation and slow request bodies have limits of their own (serve.timeout_s, RequestMiddleware).
REQUEST_TIMEOUT_S = 3600


def run(config: Config) -> None:
    """Serve until Ctrl-C.

    Raises:
        ConfigError: The port is in use, the file of keys is missing, or options contradict each other.
        ModelError: There is no such model.
        JobError: The cluster lacks the resources, or a model cannot be loaded on it.
    """
    settings = config.serve
    # In the order of cost: a wrong option or a port in use is reported before Ray is started.
    models = checked_models(config)
    # The port can be probed only where it will be opened. On a joined cluster that is the head node, not this machine.
    is_local = not (config.ray.address or os.environ.get("RAY_ADDRESS"))
    port = free_port(settings.host, settings.port) if is_local else settings.port
    with ray_runtime.environment_defaults(ray_runtime.SERVICE_SETTINGS | tracing.ray_serve_variables()):
        ray_runtime.connect(config.ray)
    config = _with_default_replicas(config, is_local=is_local)
    _require(config)
    # Ray's own handler of SIGTERM would leave replicas behind; this one makes it a KeyboardInterrupt, like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        url = start(application(config, models), settings.host, port)
        print_status(f"metrics for Prometheus: {metrics_url()}")
        print_status(f"listening on {url}; stop with Ctrl-C. Open that address in a browser, or try:\n\n"
                     f"  {curl(url, settings)}\n")  # fmt: skip
        if warning := unauthenticated_warning(settings):
            print_status(warning)
        follow()
    except KeyboardInterrupt:
        print_status(
            "stopping: images in progress are finished first, for at most half a minute; Ctrl-C again ends now"
        )
    finally:
        _stop()


def start(app: serve.Application, host: str, port: int) -> str:
    """Deploy, replacing an older deployment, and wait until requests are answered; returns the URL."""
    # Serve's own messages about its progress would bury the address that is printed at the end.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    options = HTTPOptions(host=host, port=port, request_timeout_s=REQUEST_TIMEOUT_S)
    try:
        # One proxy on the head node: one address for clients, and one ingress whose token buckets hold for the whole
        # service.
        serve.start(proxy_location="HeadOnly", http_options=options)
        serve.run(app, name=APP, route_prefix="/")
    except RuntimeError as error:
        # The RuntimeError says only that something failed; the reason (such as a model that does not fit the GPU) is in
        # the status of the deployment.
        failed = [details.message for details in serve.status().applications[APP].deployments.values()
                  if details.status.endswith(("FAILED", "UNHEALTHY"))]  # fmt: skip
        raise JobError(f"the service did not start: {[*failed, str(error)][0].strip().splitlines()[-1]}") from None
    return f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"


def follow() -> None:
    """Write the log of requests to standard error until interrupted."""
    # Long polling: each call returns as soon as there is a line, or after a second without one.
    handle: Any = serve.get_app_handle(APP)
    while True:
        try:
            for line in handle.log.remote().result(timeout_s=30):
                sys.stderr.write(f"{line}\n")
        except (RayError, RayServeException, TimeoutError):  # the ingress has been replaced, or is just being replaced
            time.sleep(1)


def _stop() -> None:
    # Ray prints the end of its own controller as if it were a failure.
    with redirect_stdout(io.StringIO()):
        serve.shutdown()
        ray.shutdown()


def build_app(args: dict[str, str]) -> serve.Application:
    """Build the application of a RayService manifest, as soon as there is a checkpoint to serve.

    Ray Serve calls this once and marks the application as failed for good if it raises. So this waits: for a
    checkpoint without limit, for a store that a new cluster is still setting up some minutes.

    Args:
        args: `config` is a preset or YAML file; other entries are overrides.

    Raises:
        StoreError: The store cannot be reached after `STORE_SETUP_TIMEOUT_S`.
        EmojiLdmError: As `checked_models`.
    """
    overrides = [f"{name}={value}" for name, value in args.items() if name != "config"]
    config, setup_over = load(args.get("config"), overrides), stop_after_delay(STORE_SETUP_TIMEOUT_S)
    if is_loopback(config.serve.host):
        # Where Ray's proxies listen stands in the manifest; other Pods reach them, so keys are needed in any case.
        config = config.model_copy(update={"serve": config.serve.model_copy(update={"host": "0.0.0.0"})})
    # Only the two errors that pass by themselves are retried. Any other error of `checked_models` is a mistake in the
    # configuration, and a failed application is then the right answer.
    attempts = Retrying(
        wait=wait_fixed(CHECKPOINT_POLL_S),
        stop=lambda state: isinstance(_error(state), StoreError) and setup_over(state),
        retry=retry_if_exception_type((UntrainedError, StoreError)),
        before_sleep=lambda state: print_status(f"the service waits: {_error(state)}"),
        reraise=True,
    )
    return attempts(_trained_application, config)


def _trained_application(config: Config) -> serve.Application:
    """`application`, which for want of a checkpoint serves the starter; UntrainedError if it could never replace it."""
    # A cluster trains a model of its own. Only with `reload_s` do replicas take it up when it comes; without it the
    # service waits as before, and does not stay with the starter for good.
    if not config.serve.checkpoint and not config.serve.reload_s:
        newest_checkpoint(Store(config.store), config.run, "unet")
    return application(config, checked_models(config))


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _with_default_replicas(config: Config, *, is_local: bool) -> Config:
    """Decide `serve.min_replicas`, if the user has not, by what the cluster has."""
    # A local Ray has logical CPUs, more than this machine's cores, so that no stage waits for another for ever. The
    # CPUs of other clusters are cores.
    resources = ray.cluster_resources()
    num_cores = len(os.sched_getaffinity(0)) if is_local else resources.get("CPU", 0)
    settings = with_default_replicas(config.serve, num_cores=num_cores, num_gpus=resources.get("GPU", 0))
    return config.model_copy(update={"serve": settings})


def _require(config: Config) -> None:
    """Wait for the resources of everything that runs before the first request."""
    settings = config.serve
    # With min_replicas=0 a replica per model is still needed, since the first start shows whether the model loads
    # (`initial_replicas`).
    num_pools = 1 + len(settings.models)
    num_replicas = num_pools * max(1, least_replicas(settings))
    ray_runtime.wait_for_resources(config.ray, "serve", num_replicas, num_cpus=NUM_CPUS + 2 * LIGHT_CPUS / num_replicas,
                    num_gpus=settings.gpus_per_worker)  # fmt: skip
