"""Threads for work on pictures, of their own: requests that wait for a store take none of them away."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
POOL = ThreadPoolExecutor((os.cpu_count() or 1) + 4, "pictures")


async def in_thread(work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """What the work returns, done in one of these threads."""
    return await asyncio.get_running_loop().run_in_executor(POOL, lambda: work(*arguments, **options))
