"""All routes of bulk jobs over one store."""

from __future__ import annotations

from collections.abc import Collection

from fastapi import APIRouter

from emoji_ldm.serve.backend import Backend
from emoji_ldm.serve.bulk.api.batch_routes import batch_routes
from emoji_ldm.serve.bulk.api.file_routes import file_routes
from emoji_ldm.serve.bulk.api.set_packs import set_pack_routes
from emoji_ldm.serve.bulk.api.set_results import set_result_routes
from emoji_ldm.serve.bulk.api.set_routes import set_routes
from emoji_ldm.serve.bulk.job_store import JobStore
from emoji_ldm.store import Store


def bulk_routes(store: Store, backend: Backend, webhook_hosts: Collection[str] = ()) -> APIRouter:
    """Build the routes. They only create, read and end jobs; a `JobRunner` over the same store executes them."""
    router, jobs = APIRouter(), JobStore(store)
    # The order is that of the documentation page.
    for routes in (set_routes(jobs, backend, webhook_hosts), set_result_routes(jobs), set_pack_routes(jobs),
                   file_routes(jobs), batch_routes(jobs, backend, webhook_hosts)):  # fmt: skip
        router.include_router(routes)
    return router
