"""The request log of the ingress: every line to Serve's logger and to whoever follows."""

import asyncio
import logging
from collections import deque

import pytest

from ray_jobs.serving import request_log


@pytest.fixture
def handler_calls(monkeypatch):
    calls = []
    monkeypatch.setattr(request_log, "POLL_S", 0.05)
    monkeypatch.setattr(logging.getLogger("ray.serve"), "log", lambda level, text, extra: calls.append(extra["fields"]))
    yield calls
    logging.getLogger(request_log.LOGGER).handlers.clear()


def test_lines_are_fetched_once_and_a_quiet_service_gives_none(handler_calls):
    async def run():
        handler = request_log.RequestLogHandler()
        logger = logging.getLogger(request_log.LOGGER)
        logger.info('{"status": 200}')
        logger.info("plain text")
        return await handler.drain(), await handler.drain()

    assert asyncio.run(run()) == (['{"status": 200}', "plain text"], [])
    assert handler_calls == [{"status": 200}, "plain text"], "JSON stays JSON in the log of Serve"


def test_a_console_that_never_comes_costs_a_bounded_number_of_lines(handler_calls, monkeypatch):
    monkeypatch.setattr(request_log, "MAX_BUFFERED_LINES", 3)

    async def run():
        handler = request_log.RequestLogHandler()
        for number in range(5):
            logging.getLogger(request_log.LOGGER).info("%d", number)
        return await handler.drain()

    assert asyncio.run(run()) == ["2", "3", "4"]


class BusyLines(deque):
    """Lines, to which another thread adds one as soon as the first of them has been read."""

    def __iter__(self):
        yield from [self[index] for index in range(len(self))]
        self.append("late")

    def popleft(self):
        line = super().popleft()
        if line == "first":
            self.append("late")
        return line


def test_a_line_that_another_thread_adds_meanwhile_is_not_lost(handler_calls):
    async def run():
        handler = request_log.RequestLogHandler()
        handler.lines = BusyLines(["first"])
        handler.available.set()
        fetched = await handler.drain()
        handler.available.set()
        return fetched + await handler.drain()

    assert asyncio.run(run()) == ["first", "late"]
