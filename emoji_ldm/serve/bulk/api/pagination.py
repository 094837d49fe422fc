"""What the routes of sets, files and batches share."""

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
    """What lists are of."""

    @property
    def id(self) -> str:
        """Its id."""
        ...


HasIdT = TypeVar("HasIdT", bound=HasId)


def paginate(found: Sequence[HasIdT], after: str, limit: int, shown: Callable[[HasIdT], JsonObject]) -> JsonObject:
    """A part of a list as OpenAI's lists are: up to `limit` of them after the one with the id `after`."""
    ids = [one.id for one in found]
    if after and after not in ids:
        raise RequestError(f"after={after!r} is none of yours", param="after")
    start = ids.index(after) + 1 if after else 0
    with ThreadPoolExecutor(PAGE_THREADS) as pool:
        data = list(pool.map(shown, found[start : start + limit]))
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, **ends, "has_more": start + limit < len(ids)}
