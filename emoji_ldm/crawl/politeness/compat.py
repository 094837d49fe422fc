"""Access to private parts of aiohttp, in one place.

Known versions: aiohttp 3.13 and 3.14.
"""

from __future__ import annotations

import aiohttp


def disable_connection_retry(session: aiohttp.ClientSession) -> None:
    """Make a session report a lost kept-alive connection instead of repeating the request on its own.

    aiohttp repeats idempotent requests when a kept-alive connection turns out to be closed. The crawl needs a permit
    for every request, also for a repeated one, and counts them; aiohttp has no public option for this.
    """
    value = getattr(session, "_retry_connection", None)
    assert value is True, f"aiohttp {aiohttp.__version__} has no ClientSession._retry_connection (3.13 and 3.14 do)"
    session._retry_connection = False
