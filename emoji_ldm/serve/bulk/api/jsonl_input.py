"""Uploaded JSONL: reading it line by line within limits, with errors that name the line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.request_body import parse_json

MAX_LINES = 50_000
# The limit of a request body of the synchronous route.
MAX_LINE_BYTES = 256 * 1024
MAX_BYTES = 200 * 2**20


def read_jsonl(source: IO[bytes]) -> Iterator[tuple[int, dict[str, Any] | RequestError]]:
    """Yield (line number from 1, object, or the error of this line) of JSONL, skipping empty lines.

    An error says that the line is too long, or not a JSON object with a `custom_id` of its own; the lines after it are
    read all the same.

    Raises:
        RequestError: There are too many lines, or none.
    """
    # At most 50,000 ids are remembered: a few megabytes, whatever the size of the file.
    line_of: dict[str, int] = {}
    number = num_lines = 0
    # One byte more than the limit: a longer line is recognised without being held in memory as a whole.
    while data := source.readline(MAX_LINE_BYTES + 1):
        number += 1
        is_long = len(data) > MAX_LINE_BYTES
        while is_long and not data.endswith(b"\n") and (rest := source.readline(MAX_LINE_BYTES)):
            data = rest
        if not is_long and not data.strip():
            continue
        num_lines += 1
        if num_lines > MAX_LINES:
            raise error_at_line(number, RequestError(f"at most {MAX_LINES:,} lines in one job", code="too_many_lines"))
        try:
            if is_long:
                raise RequestError(f"it is longer than {MAX_LINE_BYTES:,} bytes", code="line_too_long")
            values = _object(data)
            custom_id = values["custom_id"]
            if custom_id in line_of:
                raise RequestError(f"custom_id {custom_id!r} is that of line {line_of[custom_id]} already",
                                   param="custom_id", code="duplicate_custom_id")  # fmt: skip
        except RequestError as error:
            yield number, error_at_line(number, error)
        else:
            line_of[custom_id] = number
            yield number, values
    if not num_lines:
        raise RequestError("the file holds no line", code="empty_file")


def error_at_line(number: int, error: RequestError) -> RequestError:
    """Return the error of one line with the line's number; `param` stays the field."""
    located = RequestError(f"line {number}: {error}", param=error.param, code=error.code)
    located.line = number
    return located


def _object(data: bytes) -> dict[str, Any]:
    try:
        values = parse_json(data)
    except RequestError as error:
        raise RequestError(str(error).replace("the body is", "it is"), param=error.param, code="invalid_json") from None
    if not isinstance(values, dict):
        raise RequestError(f"it is no JSON object but {json.dumps(values)[:40]}", code="invalid_json")
    custom_id = values.get("custom_id")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= 512:
        raise RequestError("custom_id must be a text of 1 to 512 characters", param="custom_id",
                           code="missing_required_parameter" if custom_id is None else None)  # fmt: skip
    return values
