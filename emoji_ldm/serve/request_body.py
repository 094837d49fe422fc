"""Request bodies: reading them up to a size limit, and parsing JSON strictly."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.types import Message

from emoji_ldm.serve.errors import RequestError

SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")  # how JSON writes one half of a surrogate pair


def limit_body(request: Request, max_bytes: int) -> Request:
    """Return a request whose body raises RequestError (413) once it exceeds `max_bytes`.

    A `Content-Length` above the limit is refused before anything is read. Chunked bodies have no such header, so their
    bytes are counted as they arrive.
    """
    size, refusal = 0, RequestError(f"the body is longer than {max_bytes:,} bytes", status=413, code="body_too_long")
    # The header is optional and may lie, so the bytes are counted below in any case.
    content_length = request.headers.get("content-length", "")
    if content_length.isdecimal() and int(content_length) > max_bytes:
        raise refusal

    async def receive() -> Message:
        nonlocal size
        message = await request.receive()
        size += len(message.get("body", b""))
        if size > max_bytes:
            raise refusal
        return message

    return Request(request.scope, receive)


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return the whole body; raises RequestError (413) if it exceeds `max_bytes`, without reading the rest."""
    return await limit_body(request, max_bytes).body()


def parse_json(data: bytes) -> Any:
    """Parse JSON, refusing what Python's parser would silently accept or change.

    Raises:
        RequestError: The text is not valid JSON, contains NaN or Infinity (a Python extension), repeats a field (one
            of the values would be ignored), is nested too deeply, or contains a lone surrogate.
    """
    try:
        # Some editors and PowerShell write a byte order mark, which json.loads would refuse.
        text = data.decode("utf-8-sig")
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_fields)
        # The regular expression also matches whole pairs, which are ordinary characters. It is a cheap test that
        # spares most requests the check of every string.
        if SURROGATE_ESCAPE.search(text):
            _refuse_lone_surrogates(value)
        return value
    except RecursionError:
        # The C parser recurses once per bracket. A body of brackets alone must not become a crash (500).
        raise RequestError("the body is not JSON of this service: it is nested too deeply") from None
    except ValueError as error:
        raise RequestError(f"the body is not JSON: {error}") from None


def refuse_fields(form: FormData, known: Sequence[str]) -> None:
    """Raise RequestError for a form field that would be ignored."""
    for name in form:
        if name not in known:
            raise RequestError(f"the form field {name[:100]!r} is refused; known are: {', '.join(known)}",
                               param=name[:100], code="unknown_parameter")  # fmt: skip


def _refuse_lone_surrogates(value: object, field: str = "") -> None:
    """Raise RequestError, naming the field, if any string of `value` contains one half of a surrogate pair.

    Such strings cannot be encoded as UTF-8: they would fail later, in a log line, a PNG chunk or a Parquet file.
    """
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise RequestError(f"{field or 'the body'} is refused: it holds half of a surrogate pair, which UTF-8 "
                               "cannot write", param=field or None) from None  # fmt: skip
    elif isinstance(value, dict):
        for name, part in value.items():
            path = f"{field}.{name}" if field else name
            _refuse_lone_surrogates(name, path)
            _refuse_lone_surrogates(part, path)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            _refuse_lone_surrogates(part, f"{field}[{index}]")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # By default the last of two equal fields wins. A client that sent `seed` twice would get another image than it
    # thinks.
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise RequestError(f"the field {name!r} appears twice", param=name)
        values[name] = value
    return values
