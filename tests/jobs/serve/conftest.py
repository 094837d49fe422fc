"""One service for the tests of this folder, started and stopped as a user does, with a collector of its traces."""

import gzip
import os
import signal
import subprocess
import sys
from collections import defaultdict
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from emoji_ldm.dataset import checkpoint_aliases
from emoji_ldm.store import Store
from tests.deployed_service import URL, publish, tiny_config, wait_for


@contextmanager
def collector():
    """A collector of OTLP over HTTP: its address, and the spans by trace id, which grow."""
    traces = defaultdict(list)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        traces[span.trace_id.hex()].append(span)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", traces
        server.shutdown()


@pytest.fixture(scope="package")
def started(tmp_path_factory, tiny_pipeline):
    """Process of the real service, started and stopped as a user does; tests share it.

    It has two models: the default one, and `live`, whose weights are those that a tag names. It sends its traces to a
    collector of ours, which keeps them in `traces`.
    """
    folder = tmp_path_factory.mktemp("serve")
    config = tiny_config(folder, tiny_pipeline, models={"live": "alias:live"}, reload_s=1, max_queued=24, max_steps=900,
                      max_replicas=2, target_wait_s=2)  # fmt: skip
    store = Store(config.store)
    checkpoint_aliases.set_alias(store, "live", publish(store, 1))
    (folder / "config.yaml").write_text(config.to_yaml())
    command = [sys.executable, "-m", "ray_jobs", "serve", "--config", str(folder / "config.yaml")]
    with collector() as (endpoint, traces):
        environment = {
            **os.environ,
            "RAY_metrics_report_interval_ms": "500",
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "OTEL_SERVICE_NAME": "x",
        }
        with (folder / "log").open("w") as log, subprocess.Popen(command, stderr=log, env=environment) as process:
            process.url, process.log, process.store = wait_for(URL, folder / "log", process), folder / "log", store
            process.traces = traces
            yield process
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
    assert "\nstopping" in (folder / "log").read_text()
