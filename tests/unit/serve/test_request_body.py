"""Tests of JSON parsing and body limits."""

import pytest

from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.request_body import parse_json
from tests.unit.serve.asgi_client import call, error_of, generate
from tests.unit.serve.fake_backend import FakeBackend


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no json",
        b"[1]",
        b'"prompt"',
        b"\xff",
        b'{"prompt": "\xed\xa0\x80"}',
        '{"prompt": "a"}'.encode("utf-16"),
        b"[" * 200_000,
        b'{"a":' * 50_000,
        b'{"prompt": "a", "n": ' + b"1" * 5000 + b"}",
        b'{"prompt": "a", "prompt": "b"}',
        b'{"prompt": "a", "guidance_scale": 1e999}',
    ],
)
def test_a_body_that_is_not_a_strict_json_object_is_400(content):
    error_of(call(FakeBackend(), "POST", "/v1/images/generations", content=content), 400)


def test_lone_surrogates_are_refused_at_any_depth_and_whole_pairs_are_not():
    for text, param in ((r'{"a": {"b": ["x", "\ud83d"]}}', "a.b[1]"), (r'["\uDC00"]', "[0]"), (r'"\ud83d"', None)):
        with pytest.raises(RequestError, match="half of a surrogate pair") as caught:
            parse_json(text.encode())
        assert caught.value.param == param
    assert parse_json(rb'["\ud83d\ude00", "\\ud83d"]') == ["😀", r"\ud83d"]


def test_a_body_that_is_too_long_is_413_and_not_read_to_its_end():
    parts = []

    async def ten_megabytes():
        for _ in range(160):
            parts.append(1)
            yield b"a" * 65536

    response = call(FakeBackend(), "POST", "/v1/images/generations", content=ten_megabytes())
    assert error_of(response, 413)["code"] == "body_too_long"
    assert len(parts) < 160 or generate(FakeBackend(), prompt="a" * 10_000_000).status_code == 413
