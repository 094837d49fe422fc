"""`GET /v1/usage`: what the caller's keys have used, by day, and what is left of its quota."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

from fastapi import APIRouter, Request

from emoji_ldm.serve.caller import caller_of
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.image_quota import WINDOW_S
from emoji_ldm.serve.openapi_models import ApiModel


class UsageDay(ApiModel):
    """The use of one day (UTC)."""

    date: str
    requests: int = 0
    images: int = 0
    """Generated while a client waited; those that failed are not counted."""
    bulk_images: int = 0
    """Of bulk jobs that were created on this day, less those that were cancelled."""


class UsageReport(ApiModel):
    """What the keys of one name have used."""

    object: str = "usage"
    name: str
    """Of the caller's key; all keys of this name count together."""
    images_per_minute: int | None
    """The quota; null without one."""
    images_left: int | None
    """Of this minute."""
    resets_at: int
    """Unix time of the next minute."""
    days: list[UsageDay]
    """The newest day first."""


def usage_routes() -> APIRouter:
    """Build the routes."""
    router = APIRouter(tags=["service"])

    @router.get("/v1/usage", response_model=UsageReport)
    async def usage(request: Request) -> dict[str, Any]:
        """What your keys have used by day, and what is left of your quota."""
        caller = caller_of(request)
        if caller.meter is None:
            raise RequestError("use is counted by key, and this service asks for none", status=404, code="no_keys")
        days = await asyncio.to_thread(caller.meter.days, caller.name)
        quota = caller.quota
        return {
            "name": caller.name,
            "images_per_minute": quota.images_per_minute if quota else None,
            "images_left": await asyncio.to_thread(quota.left) if quota else None,
            "resets_at": WINDOW_S * math.ceil(time.time() / WINDOW_S),
            "days": [{"date": date, **counts} for date, counts in days.items()],
        }

    return router
