"""Serve models over HTTP with Ray Serve, here until Ctrl-C or as the application of a RayService."""

from __future__ import annotations

import io
import json
import logging
import os
import shlex
import signal
import socket
import sys
import time
from contextlib import redirect_stdout
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import HTTPOptions
from ray.serve.exceptions import RayServeException

from emoji_ldm.config import Config, ServeConfig, load
from emoji_ldm.errors import ConfigError, JobError, StoreError, UntrainedError
from emoji_ldm.progress import print_status
from emoji_ldm.serve.auth import unauthenticated_warning
from ray_jobs.execution import ray_runtime
from ray_jobs.serving.deployments import LIGHT_CPUS, NUM_CPUS, application

APP = "emoji-ldm"
CHECKPOINT_POLL_S, STORE_SETUP_TIMEOUT_S = (
    15.0,
    900.0,
)  # between looks for a checkpoint; how long a store may take to be set up
REQUEST_TIMEOUT_S = (
    3600  # a ZIP of a large set over a slow line; what is drawn, and slow bodies, end by serve.timeout_s
)


def run(config: Config) -> None:
    """Serve until Ctrl-C.

    Raises:
        ConfigError: The port is taken, the file of keys is missing, or options contradict each other.
        ModelError: There is no such model.
        JobError: The cluster lacks the resources, or a model cannot be loaded there.
    """
    settings = config.serve
    app = application(config)
    is_local = not (config.ray.address or os.environ.get("RAY_ADDRESS"))
    port = free_port(settings.host, settings.port) if is_local else settings.port
    ray_runtime.connect(config.ray)
    _require(config)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray's own handler would leave the replicas behind
    try:
        url = start(app, settings.host, port)
        print_status(f"metrics for Prometheus: {metrics_url()}")
        print_status(f"listening on {url}; stop with Ctrl-C. Try:\n\n  {curl(url, settings)}\n")
        if warning := unauthenticated_warning(settings):
            print_status(warning)
        follow()
    except KeyboardInterrupt:
        print_status(
            "stopping: what is being drawn is finished first, for half a minute at most; Ctrl-C again ends at once"
        )
    finally:
        _stop()


def start(app: serve.Application, host: str, port: int) -> str:
    """Deploy, over an older deployment if there is one, and wait until requests are answered; returns the URL."""
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
    """Write the log of requests to standard error, for ever."""
    handle: Any = serve.get_app_handle(APP)
    while True:
        try:
            for line in handle.log.remote().result(timeout_s=30):
                sys.stderr.write(f"{line}\n")
        except (RayError, RayServeException, TimeoutError):  # it has been replaced, or is being so
            time.sleep(1)


def _stop() -> None:
    with redirect_stdout(io.StringIO()):  # Ray tells of its own controller's end as if it were a failure
        serve.shutdown()
        ray.shutdown()


def metrics_url() -> str:
    """Where a node of the cluster exports the figures of its replicas."""
    node = next(node for node in ray.nodes() if node["Alive"])
    return f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"


def curl(url: str, settings: ServeConfig) -> str:
    """A command that draws one image and writes it to emoji.png."""
    body = json.dumps({"prompt": "a happy blob", "seed": 1})
    first = "import sys, json; print(json.load(sys.stdin)['data'][0]['b64_json'])"
    python = shlex.quote(sys.executable)
    key = ' -H "Authorization: Bearer $EMOJI_LDM_API_KEY"' if settings.keys else ""
    return (f"curl -s {url}/v1/images/generations{key} -d {shlex.quote(body)} "
            f'| {python} -c "{first}" | base64 -d > emoji.png')  # fmt: skip


def build_app(args: dict[str, str]) -> serve.Application:
    """The application of a RayService manifest: `config` is a preset or YAML file, other entries are overrides.

    Waits until there is a checkpoint, and some minutes for a store that is just being set up: Serve builds an
    application once, so one that failed would stay failed when `train` is done.
    """
    overrides = [f"{name}={value}" for name, value in args.items() if name != "config"]
    config, began = load(args.get("config"), overrides), time.monotonic()
    while True:
        try:
            return application(config)
        except (UntrainedError, StoreError) as error:
            if isinstance(error, StoreError) and time.monotonic() - began > STORE_SETUP_TIMEOUT_S:
                raise
            print_status(f"the service waits: {error}")
        time.sleep(CHECKPOINT_POLL_S)


def free_port(host: str, port: int) -> int:
    """The port itself, or a free one for 0; ConfigError if it cannot be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port} ({error.strerror}); "
                              "choose another serve.host or serve.port (0 takes a free one)") from None  # fmt: skip
        return int(probe.getsockname()[1])


def _require(config: Config) -> None:
    """Wait for the resources of all that runs while nothing is asked."""
    settings = config.serve
    num_pools = 1 + len(settings.models)
    num_replicas = num_pools * max(1, settings.min_replicas)
    ray_runtime.wait_for_resources(config.ray, "serve", num_replicas, num_cpus=NUM_CPUS + 2 * LIGHT_CPUS / num_replicas,
                    num_gpus=settings.gpus_per_worker)  # fmt: skip
