"""Bodies of requests: read as far as they may be long, and JSON taken at its word."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.types import Message

from emoji_ldm.serve.errors import RequestError

SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")  # how JSON writes half of a surrogate pair


def limit_body(request: Request, max_bytes: int) -> Request:
    """The request, refused (413) as soon as its body turns out to be too long."""
    size, refusal = 0, RequestError(f"the body is longer than {max_bytes:,} bytes", status=413, code="body_too_long")
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told) > max_bytes:
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
    """The body; RequestError (413) if it is longer than `max_bytes`, without having read the rest."""
    return await limit_body(request, max_bytes).body()


def parse_json(data: bytes) -> Any:
    """What JSON says.

    Raises:
        RequestError: It is no JSON: also NaN and Infinity, which only Python takes, a field that is there twice, of
            which one would be ignored, nesting deeper than anything of this service, and texts that UTF-8 cannot write.
    """
    try:
        text = data.decode("utf-8-sig")
        found = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_fields)
        if SURROGATE_ESCAPE.search(text):  # it may be one of a pair: then it is a character
            _refuse_lone_surrogates(found)
        return found
    except RecursionError:
        raise RequestError("the body is not JSON of this service: it is nested too deeply") from None
    except ValueError as error:
        raise RequestError(f"the body is not JSON: {error}") from None


def _refuse_lone_surrogates(value: object, field: str = "") -> None:
    """Raise RequestError, which names the field, for half of a surrogate pair in any text of a value."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise RequestError(f"{field or 'the body'} is refused: it holds half of a surrogate pair, which UTF-8 "
                               "cannot write", param=field or None) from None  # fmt: skip
    elif isinstance(value, dict):
        for name, part in value.items():
            inside = f"{field}.{name}" if field else name
            _refuse_lone_surrogates(name, inside)
            _refuse_lone_surrogates(part, inside)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            _refuse_lone_surrogates(part, f"{field}[{index}]")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")


def _unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise RequestError(f"the field {name!r} is there twice", param=name)
        found[name] = value
    return found


def refuse_fields(form: FormData, known: Sequence[str]) -> None:
    """RequestError for a form field that would be passed over."""
    for name in form:
        if name not in known:
            raise RequestError(f"the form field {name[:100]!r} is refused; known are: {', '.join(known)}",
                               param=name[:100], code="unknown_parameter")  # fmt: skip
