"""Cursor pagination in the shape of OpenAI's lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import Query

from emoji_ldm.serve.errors import RequestError

PAGE_THREADS = 8
PageLimit = Annotated[int, Query(ge=1, le=100)]
JsonObject = dict[str, Any]


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
