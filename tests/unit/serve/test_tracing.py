"""Traces: off unless an endpoint is configured, and the spans that an image leaves; test_serve_traces has real ones."""

import json
import logging
import sys
from types import SimpleNamespace

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.continuous_batching.image_timeline import STAGES, ImageTimeline
from emoji_ldm.serve import tracing
from tests.unit.serve.asgi_client import call
from tests.unit.serve.fake_backend import FakeBackend

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in (*tracing.ENDPOINTS, *tracing.PROTOCOLS, "OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def spans(monkeypatch):
    """Spans of a provider of the test's own, with traces on."""
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:9")
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    return exporter.get_finished_spans


def full_timeline():
    timeline = ImageTimeline()
    for number, name in enumerate(dict.fromkeys(name for _, *ends in STAGES for name in ends)):
        timeline.marks[name] = 1_000 + number
    timeline.steps += [(1_003, 1, 4), (1_004, 2, 3)]
    return timeline


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, False),
        ({ENDPOINT: "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x/v1/traces"}, True),
        ({ENDPOINT: "http://x", "OTEL_SDK_DISABLED": "True"}, False),
        ({ENDPOINT: "http://x", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_the_standard_variables_turn_traces_on_and_off(variables, expected, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert tracing.is_configured() == expected
    assert bool(tracing.span_processors()) == bool(tracing.ray_serve_variables()) == expected
    tracing.check_exporter()


def test_calls_of_the_console_leave_no_spans(monkeypatch):
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:9")
    sent = []
    monkeypatch.setattr(BatchSpanProcessor, "on_end", lambda _, span: sent.append(span.name))
    [processor] = tracing.span_processors()
    for name in ("image", tracing.CONSOLE_SPAN):
        processor.on_end(SimpleNamespace(name=name))
    processor.shutdown()
    assert sent == ["image"]


def test_a_protocol_that_is_not_sent_and_a_missing_package_are_one_line(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    tracing.check_exporter()  # without an endpoint it has no effect
    monkeypatch.setenv(ENDPOINT, "http://x")
    with pytest.raises(ConfigError, match=r"PROTOCOL=grpc is refused.*http/protobuf"):
        tracing.check_exporter()
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_PROTOCOL")
    monkeypatch.setattr(tracing, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'emoji-ldm\[serve\]'"):
        tracing.check_exporter()


def test_without_an_endpoint_a_request_has_no_trace_and_opentelemetry_is_not_asked(caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    caplog.set_level(logging.INFO, "emoji_ldm.serve")
    assert call(FakeBackend(), "POST", "/v1/images/generations", json={"prompt": "a cat"}).status_code == 200
    assert "trace_id" not in json.loads(caplog.records[-1].getMessage())


def test_the_log_line_names_the_trace_and_the_span_of_the_request_gets_its_fields(spans, caplog):
    caplog.set_level(logging.INFO, "emoji_ldm.serve")
    span = trace.get_tracer("test").start_span("request")
    token = context.attach(trace.set_span_in_context(span))
    call(FakeBackend(), "POST", "/v1/images/generations", json={"prompt": "a secret cat", "n": 2})
    context.detach(token)
    span.end()
    line = json.loads(caplog.records[-1].getMessage())
    [found] = spans()
    assert line["trace_id"] == trace.format_trace_id(found.context.trace_id)
    assert found.attributes["emoji_ldm.request_id"] == line["request_id"] and found.attributes["emoji_ldm.n"] == 2
    assert "secret" not in str(found.attributes)


def test_an_image_has_a_span_per_stage_below_the_one_of_its_request(spans):
    parent = trace.get_tracer("test").start_span("request")
    attributes = {"request_id": "r-1", "model": "tiny", "lora": "", "steps": 2}
    tracing.record_image(trace.set_span_in_context(parent), full_timeline(), attributes, "")
    image, stages = spans()[-1], spans()[:-1]
    assert (image.name, image.parent.span_id) == ("image", parent.get_span_context().span_id)
    assert image.attributes == {"emoji_ldm.request_id": "r-1", "emoji_ldm.model": "tiny", "emoji_ldm.steps": 2}
    assert (image.start_time, image.end_time) == (1_000, 1_007) and image.status.is_unset
    assert [stage.name for stage in stages] == [name for name, _, _ in STAGES]
    assert all(stage.parent.span_id == image.context.span_id for stage in stages)
    assert [(stage.start_time, stage.end_time) for stage in stages] == [(1_000 + i, 1_001 + i) for i in range(7)]
    [denoise] = [stage for stage in stages if stage.name == "denoise"]
    assert [dict(event.attributes) for event in denoise.events] == [
        {"emoji_ldm.step": 1, "emoji_ldm.images": 4}, {"emoji_ldm.step": 2, "emoji_ldm.images": 3}]  # fmt: skip


def test_an_image_that_fails_has_the_stages_until_then_and_the_reason(spans):
    timeline = full_timeline()
    for name in ("denoised", "decoding", "decoded", "drawn"):
        del timeline.marks[name]
    tracing.record_image(None, timeline, {}, "the model has no memory left")
    assert [span.name for span in spans()] == ["queue", "encode prompt", "wait for a batch", "image"]
    assert not spans()[-1].status.is_ok and spans()[-1].status.description == "the model has no memory left"
    assert spans()[-1].end_time == 1_004, "at the last thing that is known of it"


def test_only_images_of_sampled_requests_have_a_timeline(spans):
    def around(provider):
        return trace.set_span_in_context(provider.get_tracer("test").start_span("request"))

    assert tracing.new_timeline(around(TracerProvider())) is not None
    assert tracing.new_timeline(around(TracerProvider(sampler=ALWAYS_OFF))) is None
    assert tracing.new_timeline(None) is None
