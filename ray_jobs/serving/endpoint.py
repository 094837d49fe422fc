"""Where a service listens: its port, the URL of its metrics, and a first command to try."""

from __future__ import annotations

import json
import shlex
import socket
import sys

import ray

from emoji_ldm.config import ServeConfig
from emoji_ldm.errors import ConfigError


def free_port(host: str, port: int) -> int:
    """Return the port itself, or a free one for 0; ConfigError if it is in use."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Without it, a port whose last connection has just been closed (TIME_WAIT) would count as in use.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port} ({error.strerror}); "
                              "choose another serve.host or serve.port (0 takes a free one)") from None  # fmt: skip
        # The port is released here and opened again by Serve. Another process could take it in between; Serve's own
        # error then says so.
        return int(probe.getsockname()[1])


def metrics_url() -> str:
    """Return where a node of the cluster exports the metrics of its replicas for Prometheus."""
    node = next(node for node in ray.nodes() if node["Alive"])
    return f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"


def curl(url: str, settings: ServeConfig) -> str:
    """Return a shell command that draws one image and writes it to emoji.png."""
    body = json.dumps({"prompt": "a happy blob", "seed": 1})
    # The response holds the image in base64 inside of JSON. Python takes it out, because jq is not installed
    # everywhere.
    first = "import sys, json; print(json.load(sys.stdin)['data'][0]['b64_json'])"
    python = shlex.quote(sys.executable)
    key = ' -H "Authorization: Bearer $EMOJI_LDM_API_KEY"' if settings.keys else ""
    return (f"curl -s {url}/v1/images/generations{key} -d {shlex.quote(body)} "
            f'| {python} -c "{first}" | base64 -d > emoji.png')  # fmt: skip
