"""The private part of aiohttp that the crawl uses, with the installed aiohttp."""

import asyncio

import aiohttp
import pytest

from emoji_ldm.crawl.politeness.aiohttp_compat import KNOWN_VERSIONS, disable_connection_retry
from tests.unit.crawl.stub_site import Site, answer, hang_up, in_turn


def get_twice(session_setup):
    """Request /first, then /second, whose kept-alive connection is closed instead of answered; returns the log."""

    async def run(url):
        async with aiohttp.ClientSession() as session:
            session_setup(session)
            async with session.get(f"{url}/first") as response:
                await response.read()
            try:
                async with session.get(f"{url}/second") as response:
                    return response.status
            except aiohttp.ClientError:
                return None

    with Site({"/first": answer(200, b"x"), "/second": in_turn(hang_up, answer(200, b"x"))}) as site:
        return asyncio.run(run(site.url)), site.log


def test_aiohttp_repeats_a_request_on_its_own_unless_that_is_disabled():
    assert get_twice(lambda session: None) == (200, ["/first", "/second", "/second"])
    assert get_twice(disable_connection_retry) == (None, ["/first", "/second"])


def test_an_aiohttp_without_the_attribute_fails_loudly():
    with pytest.raises(AssertionError, match="has no ClientSession"):
        disable_connection_retry(object())


def test_the_installed_aiohttp_is_of_a_known_version():
    assert aiohttp.__version__.rpartition(".")[0] in KNOWN_VERSIONS
