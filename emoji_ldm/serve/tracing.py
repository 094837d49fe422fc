"""OpenTelemetry traces of requests, from the proxy to the denoising steps; off unless an OTLP endpoint is configured.

The standard variables decide, read when the service starts: OTEL_EXPORTER_OTLP_ENDPOINT (or ..._TRACES_ENDPOINT) turns
traces on, OTEL_SDK_DISABLED and OTEL_TRACES_EXPORTER=none turn them off again, OTEL_SERVICE_NAME and the other OTEL_*
variables of exporter and batch processor hold as they are documented. OpenTelemetry is imported only if traces are on.

Ray Serve makes the spans of its proxy and replicas, takes up the caller's `traceparent` (W3C Trace Context) and passes
the context on. This module says where spans go, adds what the access log says to the span of a request, and makes the
spans of an image from the timeline that the batcher kept:

    image                    one per image, with the request's id
      queue, encode prompt, wait for a batch
      denoise                with an event per noted step: its number, and the images in its forward pass
      wait for decoding, decode, encode PNG
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.continuous_batching.image_timeline import STAGES, ImageTimeline

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Tracer

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"
EXPORTER = "opentelemetry.exporter.otlp.proto.http"
# A call of Ray Serve that is no request: the console fetches the lines of the request log (`request_log`).
CONSOLE_SPAN = "replica_handle_request Ingress log"
PREFIX = "emoji_ldm."  # of the names of attributes that have no standard one


def is_configured() -> bool:
    """Return whether an endpoint for traces is configured."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return any(os.environ.get(name) for name in ENDPOINTS)


def check_exporter() -> None:
    """Raise ConfigError if traces are configured, and cannot be sent."""
    if not is_configured():
        return
    protocol = next((value for name in PROTOCOLS if (value := os.environ.get(name))), PROTOCOL)
    if protocol != PROTOCOL:
        raise ConfigError(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol} is refused: traces are sent by {PROTOCOL}, to port "
                          "4318 of most collectors")  # fmt: skip
    if not _has_exporter():
        raise ConfigError("an OTLP endpoint is configured, and the package that sends traces there is missing; install "
                          "it with: pip install 'emoji-ldm[serve]', or set OTEL_SDK_DISABLED=true")  # fmt: skip


def ray_serve_variables() -> dict[str, str]:
    """Return the variables with which Ray Serve traces requests; they have to be set where its processes start.

    Its own option (`serve.start(tracing_config=...)`) does not reach the proxy in Ray 2.60. All requests are traced:
    with a share, proxy and replicas would decide anew, and leave parts of traces. Who wants fewer has the collector
    choose.
    """
    if not is_configured():
        return {}
    path = f"{span_processors.__module__}:{span_processors.__name__}"
    return {"RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH": path, "RAY_SERVE_TRACING_SAMPLING_RATIO": "1.0"}


def _has_exporter() -> bool:
    try:
        return find_spec(EXPORTER) is not None
    except ModuleNotFoundError:  # of a package above it
        return False


def span_processors() -> list[SpanProcessor]:
    """Return what sends the spans of a process to the endpoint; Ray Serve calls this in each of its processes."""
    if not is_configured():
        return []
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    class RequestSpans(BatchSpanProcessor):
        """Sends spans in batches, but for those of the console, which asks every second."""

        def on_end(self, span: ReadableSpan) -> None:
            if span.name != CONSOLE_SPAN:
                super().on_end(span)

    return [RequestSpans(OTLPSpanExporter())]


def annotate_request(fields: Mapping[str, Any]) -> str:
    """Add the fields of a log line to the span of the request; returns its trace id, empty without a span."""
    if not is_configured():
        return ""
    from opentelemetry import trace

    span = trace.get_current_span()
    context = span.get_span_context()
    if not context.is_valid:
        return ""
    span.set_attributes({PREFIX + name: value for name, value in fields.items() if value not in (None, "")})
    return trace.format_trace_id(context.trace_id)


def new_timeline(context: Context | None) -> ImageTimeline | None:
    """Return a timeline for an image whose request is traced; None for any other."""
    from opentelemetry import trace

    is_sampled = trace.get_current_span(context).get_span_context().trace_flags.sampled
    return ImageTimeline() if is_sampled else None


def record_image(context: Context | None, timeline: ImageTimeline, attributes: Mapping[str, Any], reason: str) -> None:
    """Make the spans of an image that has ended.

    Args:
        context: Of the request, the parent.
        timeline: What the batcher noted.
        attributes: What was asked for; a value that is empty is left out.
        reason: Why there is no image, empty if there is one.
    """
    from opentelemetry import trace

    tracer, marks = trace.get_tracer("emoji_ldm"), timeline.marks
    given = {PREFIX + name: value for name, value in attributes.items() if value not in (None, "")}
    image = tracer.start_span("image", context, attributes=given, start_time=marks["submitted"])
    if reason:
        image.set_status(trace.StatusCode.ERROR, reason)
    inner = trace.set_span_in_context(image, context)
    for name, begin, end in STAGES:
        # The stage that an image did not get through has no end, and the later ones no beginning.
        if begin in marks and end in marks:
            _record_stage(tracer, inner, name, (marks[begin], marks[end]), timeline)
    image.end(max([*marks.values(), *(at for at, _, _ in timeline.steps)]))


def _record_stage(
    tracer: Tracer, context: Context, name: str, between: tuple[int, int], timeline: ImageTimeline
) -> None:
    span = tracer.start_span(name, context, start_time=between[0])
    for at, done, num_images in timeline.steps if name == "denoise" else ():
        span.add_event("step", {PREFIX + "step": done, PREFIX + "images": num_images}, at)
    span.end(between[1])
