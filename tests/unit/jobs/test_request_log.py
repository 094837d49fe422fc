"""The request log of the ingress: every line to Serve's logger and to whoever follows."""

import asyncio
import logging

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
