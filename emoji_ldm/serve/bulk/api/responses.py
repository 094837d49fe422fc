"""Shapes of responses: pages of lists, as OpenAI has them, and downloads with byte ranges and limits.

Ray Serve's proxy takes a response as fast as it is made, buffers what its client is slow to take, and spills it to the
disk: a response that was made is not a response that was received. So every download reserves its bytes until the
server reports, by `http.disconnect`, that the client has all of them or has left. What may wait for slow clients is
thereby bounded, for the process and for each owner, however many responses they ask for one after another.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import Query, Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from emoji_ldm.serve.caller import owner_of
from emoji_ldm.serve.errors import RequestError

PAGE_THREADS = 8
PageLimit = Annotated[int, Query(ge=1, le=100)]
JsonObject = dict[str, Any]
PART_BYTES = 16 * 2**20  # of a response to a Range request
MAX_WHOLE_BYTES = 128 * 2**20  # of a response to a request without Range
# That clients have not taken yet: of one owner, who may thereby not hold up the others, and of all.
MAX_OWNER_BYTES, MAX_UNREAD_BYTES = 128 * 2**20, 384 * 2**20
SMALL_BYTES = 2**20  # downloads up to this size are not waited for: they fit the buffers of the connection
RETRY_AFTER_S = 5
# One range with a start. Suffix ranges and lists of ranges, which no client of ours needs, are treated as absent.
RANGE = re.compile(r"bytes=([0-9]{1,15})-([0-9]{0,15})")


class HasId(Protocol):
    """An element of a list."""

    @property
    def id(self) -> str:
        """Its id, which serves as the cursor."""
        ...


HasIdT = TypeVar("HasIdT", bound=HasId)


def paginate(found: Sequence[HasIdT], after: str, limit: int, to_json: Callable[[HasIdT], JsonObject]) -> JsonObject:
    """Return one page of a list: up to `limit` elements after the one with the id `after`.

    `to_json` usually reads the store, so it is called for the elements of the page only, in several threads.
    """
    ids = [element.id for element in found]
    # The element may have been deleted since the last page. An error is better than starting again silently.
    if after and after not in ids:
        raise RequestError(f"after={after!r} is none of yours", param="after")
    start = ids.index(after) + 1 if after else 0
    with ThreadPoolExecutor(PAGE_THREADS) as pool:
        data = list(pool.map(to_json, found[start : start + limit]))
    # OpenAI's clients pass `last_id` as `after` to get the next page.
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, **ends, "has_more": start + limit < len(ids)}


class DownloadResponse(StreamingResponse):
    """A large response; answers 503 if too many bytes wait for slow clients."""

    # A class attribute, since the limit holds for all downloads of the process; no lock, as all run in one event
    # loop.
    unread = Counter[str]()  # bytes by owner

    def __init__(self, content: Iterator[bytes], status_code: int = 200, *, size: int, **options: Any) -> None:
        """Take the chunks of a response and about how many bytes they have together."""
        super().__init__(content, status_code, **options)
        self.size = size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, or the refusal; returns once the client has all of it."""
        unread, owner = DownloadResponse.unread, owner_of(Request(scope))
        if unread[owner] + self.size > MAX_OWNER_BYTES or unread.total() + self.size > MAX_UNREAD_BYTES:
            message = f"earlier downloads have not been received yet; try again in {RETRY_AFTER_S} s"
            refusal = RequestError(message, status=503, code="too_many_downloads",
                                   headers={"Retry-After": str(RETRY_AFTER_S)})  # fmt: skip
            return await refusal.response()(scope, receive, send)
        unread[owner] += self.size
        try:
            await super().__call__(scope, receive, send)
            while self.size > SMALL_BYTES and (await receive())["type"] != "http.disconnect":
                pass
        finally:
            unread[owner] -= self.size
            # Owners who wait for nothing are forgotten.
            unread += Counter()
        return None


def range_response(
    request: Request, size: int, read: Callable[[int, int], Iterator[bytes]], headers: Mapping[str, str], kind: str
) -> DownloadResponse:
    """Return a file, or the range of it that the request asks for (RFC 9110, section 14), at most `PART_BYTES` of it.

    Args:
        request: The request; only a single range with a start is honoured, any other `Range` is ignored, as the RFC
            allows.
        size: Bytes of the whole file.
        read: Yields the bytes [start, end).
        headers: Further headers of the response.
        kind: Media type.

    Raises:
        RequestError: The file is too large to be sent whole (413), or the range lies past its end (416).
    """
    # Announced with every response: clients may then resume a download that broke off.
    common = {**headers, "Accept-Ranges": "bytes"}
    match = RANGE.fullmatch(request.headers.get("range", "").replace(" ", ""))
    if match is None:
        refuse_large(size, f"ask for parts of it: Range: bytes=0-{PART_BYTES - 1}, and so on")
        headers = {**common, "Content-Length": str(size)}
        return DownloadResponse(read(0, size), size=size, media_type=kind, headers=headers)
    start = int(match[1])
    # A server may send less than was asked for; clients continue from Content-Range.
    end = min(size, start + PART_BYTES, int(match[2]) + 1 if match[2] else size)
    if start >= end:
        raise RequestError(f"the file has {size:,} bytes", status=416, param="range", code="no_such_range",
                           headers={"Content-Range": f"bytes */{size}"})  # fmt: skip
    lengths = {"Content-Range": f"bytes {start}-{end - 1}/{size}", "Content-Length": str(end - start)}
    return DownloadResponse(read(start, end), 206, size=end - start, media_type=kind, headers={**common, **lengths})


def refuse_large(size: int, remedy: str) -> None:
    """Raise RequestError (413) if a response of `size` bytes would be too large."""
    if size > MAX_WHOLE_BYTES:
        raise RequestError(f"this would be {size / 2**20:,.0f} MB, more than {MAX_WHOLE_BYTES // 2**20} MB at once; "
                           f"{remedy}", status=413, code="answer_too_large")  # fmt: skip
