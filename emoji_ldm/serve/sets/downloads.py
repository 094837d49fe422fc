"""Large answers. Ray Serve's proxy holds what a client is slow to take, so they are few at a time, and bounded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from emoji_ldm.serve.answers import RequestError
from emoji_ldm.store import Store

AT_ONCE = 4  # in one process
PART_BYTES = 64 * 2**20  # of an answer to who asks for a part
WHOLE_BYTES = 256 * 2**20  # of an answer to who asks for all
CHUNK = 2**20
RETRY_AFTER_S = 5
RANGE = re.compile(r"bytes=([0-9]{1,15})-([0-9]{0,15})")


class Download(StreamingResponse):
    """A large answer; if as many as there may be are under way, 503 is answered instead."""

    under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        if Download.under_way >= AT_ONCE:
            refusal = RequestError(f"{AT_ONCE} downloads are under way; try again in {RETRY_AFTER_S} s", status=503,
                                   code="too_many_downloads", headers={"Retry-After": str(RETRY_AFTER_S)})  # fmt: skip
            return await refusal.response()(scope, receive, send)
        Download.under_way += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            Download.under_way -= 1
        return None


def ranged(
    request: Request, size: int, parts: Callable[[int, int], Iterator[bytes]], headers: Mapping[str, str], kind: str
) -> Download:
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
        return Download(parts(0, size), media_type=kind, headers={**own, "Content-Length": str(size)})
    start = int(match[1])
    end = min(size, start + PART_BYTES, int(match[2]) + 1 if match[2] else size)
    if start >= end:
        raise RequestError(f"the file has {size:,} bytes", status=416, param="range", code="no_such_range",
                           headers={"Content-Range": f"bytes */{size}"})  # fmt: skip
    told = {"Content-Range": f"bytes {start}-{end - 1}/{size}", "Content-Length": str(end - start)}
    return Download(parts(start, end), 206, media_type=kind, headers={**own, **told})


def refuse_large(size: int, remedy: str) -> None:
    """RequestError (413) if an answer would be too large."""
    if size > WHOLE_BYTES:
        raise RequestError(f"this would be {size / 2**20:,.0f} MB, more than {WHOLE_BYTES // 2**20} MB at once; "
                           f"{remedy}", status=413, code="answer_too_large")  # fmt: skip


def stored(store: Store, path: str) -> Callable[[int, int], Iterator[bytes]]:
    """What gives the parts of a file of the store."""

    def parts(start: int, end: int) -> Iterator[bytes]:
        with store.reaching("read a file"), store.filesystem.open_input_file(path) as stream:
            stream.seek(start)
            while start < end and (data := stream.read(min(CHUNK, end - start))):
                start += len(data)
                yield bytes(data)

    return parts


def cut(parts: Iterator[bytes], start: int, end: int) -> Iterator[bytes]:
    """The bytes from an offset of `parts` to another one."""
    at = 0
    for data in parts:
        if at + len(data) > start:
            yield data[max(0, start - at) : end - at]
        at += len(data)
        if at >= end:
            return
