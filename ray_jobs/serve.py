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
from emoji_ldm.errors import JobError, StoreError, UntrainedError
from emoji_ldm.progress import print_status
from emoji_ldm.serve.auth import unauthenticated_warning
from ray_jobs.execution import ray_runtime
from ray_jobs.serving.deployments import LIGHT_CPUS, NUM_CPUS, application
from ray_jobs.serving.endpoint import curl, free_port, metrics_url

APP = "emoji-ldm"
CHECKPOINT_POLL_S = 15.0  # how often a waiting service looks for a checkpoint
STORE_SETUP_TIMEOUT_S = 900.0  # how long a new cluster may take to set up its store
REQUEST_TIMEOUT_S = 3600  # for a ZIP of a large set over a slow line; drawing and slow bodies end by serve.timeout_s


def run(config: Config) -> None:
    """Serve until Ctrl-C.

    Raises:
        ConfigError: The port is in use, the file of keys is missing, or options contradict each other.
        ModelError: There is no such model.
        JobError: The cluster lacks the resources, or a model cannot be loaded on it.
    """
    settings = config.serve
    # In the order of cost: a wrong option or a port in use is reported before Ray is started.
    app = application(config)
    is_local = not (config.ray.address or os.environ.get("RAY_ADDRESS"))
    port = free_port(settings.host, settings.port) if is_local else settings.port
    ray_runtime.connect(config.ray)
    _require(config)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray's own handler would leave replicas behind
    try:
        url = start(app, settings.host, port)
        print_status(f"metrics for Prometheus: {metrics_url()}")
        print_status(f"listening on {url}; stop with Ctrl-C. Try:\n\n  {curl(url, settings)}\n")
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
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    options = HTTPOptions(host=host, port=port, request_timeout_s=REQUEST_TIMEOUT_S)
    try:
        serve.start(proxy_location="HeadOnly", http_options=options)
        serve.run(app, name=APP, route_prefix="/")
    except RuntimeError as error:
        failed = [details.message for details in serve.status().applications[APP].deployments.values()
                  if details.status.endswith(("FAILED", "UNHEALTHY"))]  # fmt: skip
        raise JobError(f"the service did not start: {[*failed, str(error)][0].strip().splitlines()[-1]}") from None
    return f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"


def follow() -> None:
    """Write the log of requests to standard error until interrupted."""
    handle: Any = serve.get_app_handle(APP)
    while True:
        try:
            for line in handle.log.remote().result(timeout_s=30):
                sys.stderr.write(f"{line}\n")
        except (RayError, RayServeException, TimeoutError):  # the ingress has been replaced, or is just being replaced
            time.sleep(1)


def _stop() -> None:
    with redirect_stdout(io.StringIO()):  # Ray prints the end of its own controller as if it were a failure
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
        EmojiLdmError: As `application`.
    """
    overrides = [f"{name}={value}" for name, value in args.items() if name != "config"]
    config, setup_over = load(args.get("config"), overrides), stop_after_delay(STORE_SETUP_TIMEOUT_S)
    attempts = Retrying(
        wait=wait_fixed(CHECKPOINT_POLL_S),
        stop=lambda state: isinstance(_error(state), StoreError) and setup_over(state),
        retry=retry_if_exception_type((UntrainedError, StoreError)),
        before_sleep=lambda state: print_status(f"the service waits: {_error(state)}"),
        reraise=True,
    )
    return attempts(application, config)


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _require(config: Config) -> None:
    """Wait for the resources of everything that runs before the first request."""
    settings = config.serve
    num_pools = 1 + len(settings.models)
    num_replicas = num_pools * max(1, settings.min_replicas)
    ray_runtime.wait_for_resources(config.ray, "serve", num_replicas, num_cpus=NUM_CPUS + 2 * LIGHT_CPUS / num_replicas,
                    num_gpus=settings.gpus_per_worker)  # fmt: skip
