"""What the routes of sets, files and batches share."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import Query, Request
from starlette.datastructures import FormData

from emoji_ldm.serve.answers import RequestError
from emoji_ldm.serve.auth import Caller
from emoji_ldm.serve.sets.jobs import Job, Jobs
from emoji_ldm.serve.sets.results import Results

READERS = 8
Limit = Annotated[int, Query(ge=1, le=100)]
Answer = dict[str, Any]


def caller_of(request: Request) -> Caller:
    """Who asks; nobody where the application has no door."""
    return getattr(request.state, "caller", None) or Caller()


def owner_of(request: Request) -> str:
    """Whose jobs a request is about: the name of its key, empty where nobody needs one."""
    return caller_of(request).name


def cancelled(jobs: Jobs, job: Job, caller: Caller) -> None:
    """End a job; what is not drawn of it does not count against its owner's quota."""
    if not job.errors:
        caller.refund(Results(jobs, job).cancel())


class Named(Protocol):
    """What lists are of."""

    @property
    def id(self) -> str:
        """Its id."""
        ...


One = TypeVar("One", bound=Named)


def page(found: Sequence[One], after: str, limit: int, shown: Callable[[One], Answer]) -> Answer:
    """A part of a list as OpenAI's lists are: up to `limit` of them after the one with the id `after`."""
    ids = [one.id for one in found]
    if after and after not in ids:
        raise RequestError(f"after={after!r} is none of yours", param="after")
    start = ids.index(after) + 1 if after else 0
    with ThreadPoolExecutor(READERS) as pool:
        data = list(pool.map(shown, found[start : start + limit]))
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, **ends, "has_more": start + limit < len(ids)}


def same(job: Job, digest: str) -> Job:
    """The job, if a repeated request asks for it; RequestError (409) if its key was used for another one."""
    if job.digest != digest:
        raise RequestError("this idempotency key was used for another request", status=409, param="idempotency_key",
                           code="idempotency_key_reused")  # fmt: skip
    return job


def refuse_fields(form: FormData, known: Sequence[str]) -> None:
    """RequestError for a form field that would be passed over."""
    for name in form:
        if name not in known:
            raise RequestError(f"the form field {name[:100]!r} is refused; known are: {', '.join(known)}",
                               param=name[:100], code="unknown_parameter")  # fmt: skip


def random_seed() -> int:
    """A seed for who gives none."""
    return secrets.randbelow(2**31)
