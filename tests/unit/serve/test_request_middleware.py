"""Tests of slow, leaving and numerous clients, against a real server and with cancellation as Ray Serve does it."""

import asyncio
import json
import logging
import resource
import socket
import time
from contextlib import ExitStack, suppress

import httpx
import pytest

from emoji_ldm.config.serve import ServeConfig
from emoji_ldm.serve import request_middleware
from emoji_ldm.serve.app import build_api
from tests.unit.serve.asgi_client import call
from tests.unit.serve.fake_backend import FakeBackend, serving, wait_until

SCOPE = {"type": "http", "method": "POST", "path": "/v1/images/generations", "headers": [], "query_string": b"",
         "raw_path": b"", "root_path": "", "scheme": "http", "server": ("x", 80)}  # fmt: skip
BODY = json.dumps({"prompt": "a cat", "seed": 1}).encode()


def connect(url):
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)))


def head(length, path="/v1/images/generations", kind="application/json"):
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n".encode()


def post(url, **body):
    return httpx.post(f"{url}/v1/images/generations", json={"prompt": "a", **body}, timeout=20)


def test_each_request_logs_one_line_without_its_prompt(caplog):
    caplog.set_level(logging.INFO, "emoji_ldm.serve")
    response = call(FakeBackend(), "POST", "/v1/images/generations", headers={"x-request-id": "mine-1"},
                  json={"prompt": "a secret cat", "n": 2, "user": "u-1"})  # fmt: skip
    call(FakeBackend(), "GET", "/health")
    [line] = [json.loads(record.getMessage()) for record in caplog.records if record.name == "emoji_ldm.serve"]
    assert response.headers["x-request-id"] == line["request_id"] == "mine-1"
    expected = {"route": "/v1/images/generations", "model": "demo-1", "n": 2, "steps": 30, "status": 200, "user": "u-1",
              "bytes_out": len(response.content), "key": ""}  # fmt: skip
    assert line.items() >= expected.items() and "secret" not in json.dumps(line)
    call(FakeBackend(), "POST", "/v1/images/generations", ServeConfig(log_prompts=True), json={"prompt": "a cat"})
    assert json.loads(caplog.records[-1].getMessage())["prompt"] == "a cat"


def test_a_request_id_that_could_forge_a_log_line_is_replaced():
    response = call(FakeBackend(), "GET", "/health", headers={"x-request-id": 'a"} {'})
    assert response.headers["x-request-id"].startswith("req_")


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
def test_a_disconnect_cancels_the_tasks_of_that_client_only(stream, caplog):
    caplog.set_level(logging.INFO, "emoji_ldm.serve")
    backend = FakeBackend(delay_s=0.4)
    with serving(backend) as url:
        alone = post(url, seed=5).json()["data"]
        body = json.dumps({"prompt": "gone", "n": 4, "stream": stream}).encode()
        with connect(url) as leaving, connect(url) as staying:
            staying.sendall(head(len(BODY)) + BODY)
            leaving.sendall(head(len(body)) + body)
            wait_until(lambda: len(backend.running) == 5)
            leaving.close()
            wait_until(lambda: len(backend.running) == 1)
            assert backend.num_cancelled == 4
            assert staying.recv(12) == b"HTTP/1.1 200"
        assert post(url, seed=5).json()["data"] == alone
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == "emoji_ldm.serve"]
    assert [line["status"] for line in lines].count(request_middleware.CLIENT_CLOSED_STATUS) == 1


@pytest.mark.parametrize(("stream", "delay_s"), [(False, 30), (True, 30), (True, 0)])
def test_a_cancellation_by_the_server_cancels_the_tasks(stream, delay_s):
    """As Ray Serve does; the last case is cancelled while it sends, to a client that takes nothing."""

    async def cancelled():
        backend, stuck = FakeBackend(delay_s=delay_s, final_delay_s=30), asyncio.Event()
        body = json.dumps({"prompt": "a", "stream": stream} | ({"partial_images": 1} if stream else {})).encode()
        parts = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive():
            return parts.pop() if parts else await asyncio.Event().wait()

        async def send(message):
            if message["type"] == "http.response.body":
                stuck.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(build_api(backend, adds_request_id=False)({**SCOPE}, receive, send))
        while not (stuck.is_set() if delay_s < 1 else backend.running):
            await asyncio.sleep(0.001)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert task.cancelled() and backend.num_cancelled == 1 and not backend.running

    asyncio.run(cancelled())


def test_a_server_that_reports_a_disconnect_and_cancels_sees_its_task_cancelled():
    """Ray Serve does both: it reports the disconnect, and cancels."""

    async def left():
        backend, disconnected = FakeBackend(delay_s=30), asyncio.Event()
        parts = [{"type": "http.request", "body": BODY, "more_body": False}]

        async def receive():
            if parts:
                return parts.pop()
            await disconnected.wait()
            return {"type": "http.disconnect"}

        task = asyncio.create_task(build_api(backend)({**SCOPE}, receive, None))
        while not backend.running:
            await asyncio.sleep(0.001)
        disconnected.set()
        await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert task.cancelled() and backend.num_cancelled == 1 and not backend.running

    asyncio.run(left())


def test_a_disconnect_during_the_upload_is_not_logged_as_an_error(caplog):
    with serving(backend := FakeBackend()) as url:
        for kind, path in (("application/json", "/v1/images/generations"),
                           ("multipart/form-data; boundary=x", "/v1/images/edits")):  # fmt: skip
            with connect(url) as leaving:
                leaving.sendall(head(1000, path, kind) + b"--x\r\n")
        assert post(url).status_code == 200
    assert len(backend.tasks) == 1
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.slow
def test_a_slow_body_is_408_and_closes_the_connection_while_others_are_served(monkeypatch):
    monkeypatch.setattr(request_middleware, "BODY_GRACE_S", 1.0)
    with serving(FakeBackend()) as url, connect(url) as slow:
        slow.sendall(head(1000) + b'{"prompt"')
        began = time.monotonic()
        assert post(url).status_code == 200
        slow.settimeout(0.05)
        response = b""
        while b"slow_body" not in response:
            with suppress(TimeoutError):
                response += slow.recv(4096)
            with suppress(OSError):
                slow.sendall(b" ")  # a byte now and then does not help
            assert time.monotonic() - began < 30
        assert response.startswith(b"HTTP/1.1 408") and b"connection: close" in response.lower()


@pytest.mark.slow
def test_a_large_upload_may_take_longer(monkeypatch):
    monkeypatch.setattr(request_middleware, "BODY_GRACE_S", 1.0)
    monkeypatch.setattr(request_middleware, "MIN_BODY_BYTES_PER_S", 5_000)
    body, end = b"--x\r\n" + b"a" * 30_000, time.monotonic() + 1.2
    with serving(FakeBackend()) as url, connect(url) as slow:
        slow.sendall(head(len(body), "/v1/images/edits", "multipart/form-data; boundary=x") + body[:-1])
        while time.monotonic() < end:
            time.sleep(0.05)
        slow.sendall(body[-1:])
        assert slow.recv(12) == b"HTTP/1.1 400"  # not 408: the form is broken


@pytest.mark.slow
def test_a_thousand_idle_connections_do_not_block_others():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip("this machine allows fewer than 4096 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    try:
        with serving(FakeBackend()) as url, ExitStack() as held:
            for index in range(1000):
                one = held.enter_context(connect(url))
                one.sendall((b"", b"POST /v1/ima", head(100), head(100) + b"{")[index % 4])
            assert all(post(url, n=2).status_code == 200 for _ in range(5))
            assert httpx.get(f"{url}/health").status_code == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
