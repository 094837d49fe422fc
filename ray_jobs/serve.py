"""Serve a model over HTTP with Ray Serve, here until Ctrl-C or as the application of a RayService."""

from __future__ import annotations

import json
import logging
import shlex
import signal
import socket
import sys
import time

from ray import serve
from ray.serve.config import HTTPOptions

from emoji_ldm.config import Config, load
from emoji_ldm.errors import ConfigError, JobError
from emoji_ldm.progress import say
from ray_jobs import cluster
from ray_jobs.deployments import NUM_CPUS, application

APP = "emoji-ldm"


def run(config: Config) -> None:
    """Serve until Ctrl-C.

    Raises:
        ConfigError: The port is taken, or the replica counts contradict each other.
        ModelError: There is no such model.
        JobError: The cluster lacks the resources, or the model cannot be loaded there.
    """
    settings = config.serve
    app = application(config)
    port = free_port(settings.host, settings.port)
    cluster.connect(config.cluster)
    cluster.require(
        config.cluster, "serve", max(1, settings.min_replicas), num_cpus=NUM_CPUS, num_gpus=settings.num_gpus
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray's own handler would leave the replicas behind
    try:
        url = start(app, settings.host, port)
        say(f"listening on {url}; stop with Ctrl-C. Try:\n\n  {curl(url)}\n")
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        say("stopping")
    finally:
        serve.shutdown()


def start(app: serve.Application, host: str, port: int) -> str:
    """Deploy and wait until the first request would be answered; returns the URL."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        serve.start(proxy_location="HeadOnly", http_options=HTTPOptions(host=host, port=port))
        serve.run(app, name=APP, route_prefix="/")
    except RuntimeError as error:
        details = serve.status().applications[APP].deployments.get("Drawer")
        reason = (details.message if details else str(error)).strip().splitlines()[-1]
        raise JobError(f"the service did not start: {reason}") from None
    return f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"


def curl(url: str) -> str:
    """A command that draws one image and writes it to emoji.png."""
    body = json.dumps({"prompt": "a happy blob", "seed": 1})
    first = "import sys, json; print(json.load(sys.stdin)['data'][0]['b64_json'])"
    python = shlex.quote(sys.executable)
    return f'curl -s {url}/v1/images/generations -d {shlex.quote(body)} | {python} -c "{first}" | base64 -d > emoji.png'


def build_app(args: dict[str, str]) -> serve.Application:
    """The application of a RayService manifest: `config` is a preset or YAML file, other entries are overrides."""
    overrides = [f"{name}={value}" for name, value in args.items() if name != "config"]
    return application(load(args.get("config"), overrides))


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
