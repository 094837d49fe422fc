"""Traces of the real service, as a collector gets them: from the proxy to the steps, in the caller's trace."""

import gzip
import os
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from emoji_ldm.generate.continuous_batching.image_timeline import STAGES
from emoji_ldm.serve.tracing import CONSOLE_SPAN
from tests.deployed_service import tiny_config

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
START_S, EXPORT_S = 240, 60


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


@pytest.fixture(scope="module")
def traced(tmp_path_factory, tiny_pipeline):
    """A service that sends traces to a collector of ours: URL, log, spans."""
    folder = tmp_path_factory.mktemp("serve")
    (folder / "config.yaml").write_text(tiny_config(folder, tiny_pipeline).to_yaml())
    command = [sys.executable, "-m", "ray_jobs", "serve", "--config", str(folder / "config.yaml")]
    with collector() as (endpoint, traces):
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "OTEL_SERVICE_NAME": "x",
        }
        environment = {**os.environ, **variables}
        with (folder / "log").open("w") as log, subprocess.Popen(command, stderr=log, env=environment) as process:
            deadline = time.monotonic() + START_S
            while not (found := re.search(r"listening on (http://\S+);", (folder / "log").read_text())):
                assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.2)
            yield found[1], folder / "log", traces
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0


def spans_of(traces, trace_id, names, num_images=1):
    """The spans of a trace, as soon as those with these names are there for each image, and the parents of all.

    Each process sends its own spans, and the proxy ends and sends those of a request last.
    """
    deadline = time.monotonic() + EXPORT_S
    while True:
        spans = list(traces[trace_id])
        known = {CALLER, *(span.span_id.hex() for span in spans)}
        found = [span.name for span in spans]
        if all(found.count(name) >= num_images for name in names) and known.issuperset(
            span.parent_span_id.hex() for span in spans
        ):
            return spans
        assert time.monotonic() < deadline, sorted(found)
        time.sleep(0.2)


def attributes_of(span):
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


@pytest.mark.slow
def test_a_trace_leads_from_the_caller_over_the_proxy_to_the_steps(traced):
    url, log, traces = traced
    headers = {"traceparent": f"00-{TRACE_ID}-{CALLER}-01", "x-request-id": "mine"}
    body = {"prompt": "a cat", "n": 2, "num_inference_steps": 4}
    answer = httpx.post(f"{url}/v1/images/generations", json=body, headers=headers, timeout=60)
    assert answer.status_code == 200
    stages = {name for name, _, _ in STAGES}
    spans = spans_of(traces, TRACE_ID, {"image", *stages}, num_images=2)
    images = [span for span in spans if span.name == "image"]
    assert len(images) == 2 and all(attributes_of(image)["emoji_ldm.request_id"] == "mine" for image in images)
    by_id = {span.span_id.hex(): span for span in spans}
    for image in images:
        path, span = [], image
        while span.parent_span_id.hex() != CALLER:
            span = by_id[span.parent_span_id.hex()]
            path.append(span.name)
        # Ray's names of concurrent calls may be swapped, as they share a list of open spans.
        assert "model-tiny" in path[0] and any("Ingress" in name for name in path[1:]), path
        assert path[-1].startswith("proxy_http"), path
        own = [span for span in spans if span.parent_span_id == image.span_id]
        assert {span.name for span in own} == stages
        [denoise] = [span for span in own if span.name == "denoise"]
        assert [event.name for event in denoise.events] == ["step"] * 4
    deadline = time.monotonic() + 30
    while f'"trace_id": "{TRACE_ID}"' not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


@pytest.mark.slow
def test_a_caller_that_does_not_sample_leaves_no_trace(traced):
    url, _, traces = traced
    other = TRACE_ID[::-1]
    body = {"prompt": "a cat", "num_inference_steps": 2}
    for trace_id, flag in ((other, "00"), ("1" * 32, "01")):
        headers = {"traceparent": f"00-{trace_id}-{CALLER}-{flag}"}
        assert httpx.post(f"{url}/v1/images/generations", json=body, headers=headers, timeout=60).status_code == 200
    spans_of(traces, "1" * 32, {"image"})
    assert not traces[other]
    assert not [span.name for spans in traces.values() for span in spans if span.name == CONSOLE_SPAN]
