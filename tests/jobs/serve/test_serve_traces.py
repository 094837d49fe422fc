"""Traces of the real service, as a collector gets them: from the proxy to the steps, in the caller's trace."""

import time

import httpx
import pytest

from emoji_ldm.generate.continuous_batching.image_timeline import STAGES
from emoji_ldm.serve.tracing import CONSOLE_SPAN

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
EXPORT_S = 60


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
def test_a_trace_leads_from_the_caller_over_the_proxy_to_the_steps(started):
    url, log, traces = started.url, started.log, started.traces
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
def test_a_caller_that_does_not_sample_leaves_no_trace(started):
    url, traces = started.url, started.traces
    other = TRACE_ID[::-1]
    body = {"prompt": "a cat", "num_inference_steps": 2}
    for trace_id, flag in ((other, "00"), ("1" * 32, "01")):
        headers = {"traceparent": f"00-{trace_id}-{CALLER}-{flag}"}
        assert httpx.post(f"{url}/v1/images/generations", json=body, headers=headers, timeout=60).status_code == 200
    spans_of(traces, "1" * 32, {"image"})
    assert not traces[other]
    assert not [span.name for spans in traces.values() for span in spans if span.name == CONSOLE_SPAN]
