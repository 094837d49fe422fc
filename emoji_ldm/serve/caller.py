"""The caller of a request: whose jobs it may see, what its quota allows, and what it has used.

Routes charge the quota of a key's owner (`image_quota`) before they generate or store anything, and refund requests
that failed and jobs that were cancelled. Single images of a job that failed or expired are not refunded.
"""

from __future__ import annotations

import asyncio
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from fastapi import Request

from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.image_quota import ImageQuota
from emoji_ldm.serve.state.usage_meter import UsageMeter

QUOTA_THREADS = ThreadPoolExecutor(4, "quota")  # which ask the store for images of a quota


@dataclass(frozen=True)
class Caller:
    """The client of a request (`request.state.caller`). Without a key file, callers are anonymous and unrestricted."""

    name: str = ""
    quota: ImageQuota | None = None
    meter: UsageMeter | None = None

    def charge(self, images: int) -> None:
        """Count images of a bulk job against the quota; raises RequestError (429) if it is exhausted.

        May wait for the store.
        """
        if self.quota:
            self._refuse_after(self.quota.charge(images))
        self._count(bulk_images=images)

    async def charge_soon(self, images: int) -> None:
        """As `charge`, for images of a request, in an event loop: if the store has to be asked, a thread does."""
        if self.quota is not None:
            wait_s = self.quota.take(images)
            if wait_s is None:
                wait_s = await asyncio.get_running_loop().run_in_executor(QUOTA_THREADS, self.quota.charge, images)
            self._refuse_after(wait_s)
        self._count(images=images)

    def refund(self, images: int) -> None:
        """Return the charge for images of a request that were not generated."""
        if self.quota:
            self.quota.refund(images)
        self._count(images=-images)

    async def refund_soon(self, images: int) -> None:
        """As `refund`, in an event loop, which must not wait for a thread that asks the store."""
        await asyncio.get_running_loop().run_in_executor(QUOTA_THREADS, self.refund, images)

    def refund_job(self, images: int) -> None:
        """Return the charge for images of a bulk job; raises StoreError."""
        if self.quota and images:
            self.quota.refund(images, of_job=True)
        self._count(bulk_images=-images)

    def _count(self, **counts: int) -> None:
        if self.meter:
            self.meter.count(self.name, **counts)

    def _refuse_after(self, wait_s: float) -> None:
        if self.quota and wait_s > 0:
            full_at = datetime.fromtimestamp(time.time() + wait_s, UTC)
            raise RequestError(f"the key {self.name!r} may generate {self.quota.images_per_minute} images per minute; "
                               f"try again in {math.ceil(wait_s)} s, at {full_at:%Y-%m-%dT%H:%M:%SZ}", status=429,
                               code="rate_limit_exceeded", headers={"Retry-After": str(math.ceil(wait_s))})  # fmt: skip


def caller_of(request: Request) -> Caller:
    """Return the caller of a request; anonymous if the application has no AuthMiddleware."""
    return getattr(request.state, "caller", None) or Caller()


def owner_of(request: Request) -> str:
    """Return the owner of the jobs that a request may see: the name of its key, empty if none is needed."""
    return caller_of(request).name
