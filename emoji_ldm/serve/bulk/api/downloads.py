"""Large answers. Ray Serve's proxy holds what a client is slow to take, so they are few at a time, and bounded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from emoji_ldm.serve.errors import RequestError

MAX_CONCURRENT = 4  # in one process
PART_BYTES = 64 * 2**20  # of an answer to who asks for a part
MAX_WHOLE_BYTES = 256 * 2**20  # of an answer to who asks for all
RETRY_AFTER_S = 5
RANGE = re.compile(r"bytes=([0-9]{1,15})-([0-9]{0,15})")


class DownloadResponse(StreamingResponse):
    """A large answer; if as many as there may be are under way, 503 is answered instead."""

    under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        if DownloadResponse.under_way >= MAX_CONCURRENT:
            refusal = RequestError(f"{MAX_CONCURRENT} downloads are under way; try again in {RETRY_AFTER_S} s", status=503,
                                   code="too_many_downloads", headers={"Retry-After": str(RETRY_AFTER_S)})  # fmt: skip
            return await refusal.response()(scope, receive, send)
        DownloadResponse.under_way += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            DownloadResponse.under_way -= 1
        return None


def range_response(
    request: Request, size: int, parts: Callable[[int, int], Iterator[bytes]], headers: Mapping[str, str], kind: str
) -> DownloadResponse:
    """A file of `size` bytes, or as much as a part may have of the range that the request's `Range` names.

    Args:
        request: Who asks.
        size: Bytes of the whole file.
        parts: Gives the bytes from an offset to another one.
        headers: Further headers of the answer.
        kind: Media type.

    Raises:
        RequestError: The file is too large to be sent whole (413), or there is no such range (416).
    """
    own = {**headers, "Accept-Ranges": "bytes"}
    match = RANGE.fullmatch(request.headers.get("range", "").replace(" ", ""))
    if match is None:  # other forms of ranges may be taken as none at all
        refuse_large(size, f"ask for parts of it: Range: bytes=0-{PART_BYTES - 1}, and so on")
        return DownloadResponse(parts(0, size), media_type=kind, headers={**own, "Content-Length": str(size)})
    start = int(match[1])
    end = min(size, start + PART_BYTES, int(match[2]) + 1 if match[2] else size)
    if start >= end:
        raise RequestError(f"the file has {size:,} bytes", status=416, param="range", code="no_such_range",
                           headers={"Content-Range": f"bytes */{size}"})  # fmt: skip
    told = {"Content-Range": f"bytes {start}-{end - 1}/{size}", "Content-Length": str(end - start)}
    return DownloadResponse(parts(start, end), 206, media_type=kind, headers={**own, **told})


def refuse_large(size: int, remedy: str) -> None:
    """RequestError (413) if an answer would be too large."""
    if size > MAX_WHOLE_BYTES:
        raise RequestError(f"this would be {size / 2**20:,.0f} MB, more than {MAX_WHOLE_BYTES // 2**20} MB at once; "
                           f"{remedy}", status=413, code="answer_too_large")  # fmt: skip
