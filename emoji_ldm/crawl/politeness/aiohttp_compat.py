"""Private parts of aiohttp: the repetition of requests whose kept-alive connection was lost."""

from __future__ import annotations

import aiohttp

from emoji_ldm.library_compat import require_version

KNOWN_VERSIONS = ("3.13", "3.14")

require_version("aiohttp", KNOWN_VERSIONS)


def disable_connection_retry(session: aiohttp.ClientSession) -> None:
    """Make a session report a lost kept-alive connection instead of repeating the request on its own.

    aiohttp repeats idempotent requests when a kept-alive connection turns out to be closed. The crawl needs a permit
    for every request, also for a repeated one, and aiohttp has no public option for this.
    """
    # A renamed attribute would be set without any effect, so its value is checked first.
    value = getattr(session, "_retry_connection", None)
    assert value is True, f"aiohttp {aiohttp.__version__} has no ClientSession._retry_connection"
    session._retry_connection = False
