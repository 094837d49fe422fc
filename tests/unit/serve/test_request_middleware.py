"""Clients that leave, dawdle or come in crowds, against a real server and as Ray Serve would cancel."""

import asyncio
import json
import logging
import resource
import socket
import time
from contextlib import ExitStack, suppress

import httpx
import pytest

from emoji_ldm.serve import fan_out, request_middleware
from emoji_ldm.serve.app import build_api
from tests.unit.serve.fake_backend import Painter, picture, serving, wait_until

pytestmark = pytest.mark.slow

SCOPE = {"type": "http", "method": "POST", "path": "/v1/images/generations", "headers": [], "query_string": b"",
         "raw_path": b"", "root_path": "", "scheme": "http", "server": ("x", 80)}  # fmt: skip
BODY = json.dumps({"prompt": "a cat", "seed": 1}).encode()


def connect(url):
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)))


def head(length, path="/v1/images/generations", kind="application/json"):
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n".encode()


def generate(url, **body):
    return httpx.post(f"{url}/v1/images/generations", json={"prompt": "a", **body}, timeout=20)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_rows_and_no_others(stream, caplog):
    caplog.set_level(logging.INFO, "emoji_ldm.serve")
    backend = Painter(delay_s=0.4)
    with serving(backend) as url:
        alone = generate(url, seed=5).json()["data"]
        body = json.dumps({"prompt": "gone", "n": 4, "stream": stream}).encode()
        with connect(url) as leaving, connect(url) as staying:
            staying.sendall(head(len(BODY)) + BODY)
            leaving.sendall(head(len(body)) + body)
            wait_until(lambda: len(backend.rows) == 5)
            leaving.close()
            wait_until(lambda: len(backend.rows) == 1)
            assert backend.freed == 4
            assert staying.recv(12) == b"HTTP/1.1 200"
        assert generate(url, seed=5).json()["data"] == alone
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == "emoji_ldm.serve"]
    assert [line["status"] for line in lines].count(request_middleware.CLIENT_CLOSED_STATUS) == 1


@pytest.mark.parametrize(("stream", "delay_s"), [(False, 30), (True, 30), (True, 0)])
def test_a_server_that_cancels_the_handler_itself_frees_the_rows_as_well(stream, delay_s):
    """As Ray Serve does; the last case is cancelled while it sends, to a client that takes nothing."""

    async def cancelled():
        backend, stuck = Painter(delay_s=delay_s, end_s=30), asyncio.Event()
        body = json.dumps({"prompt": "a", "stream": stream} | ({"partial_images": 1} if stream else {})).encode()
        parts = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive():
            return parts.pop() if parts else await asyncio.Event().wait()

        async def send(message):
            if message["type"] == "http.response.body":
                stuck.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(build_api(backend, tells_id=False)({**SCOPE}, receive, send))
        while not (stuck.is_set() if delay_s < 1 else backend.rows):
            await asyncio.sleep(0.001)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert task.cancelled() and backend.freed == 1 and not backend.rows

    asyncio.run(cancelled())


def test_a_server_that_cancels_because_the_client_left_sees_its_task_cancelled():
    """Ray Serve does both: it tells of the client that left, and cancels."""

    async def left():
        backend, gone = Painter(delay_s=30), asyncio.Event()
        parts = [{"type": "http.request", "body": BODY, "more_body": False}]

        async def receive():
            if parts:
                return parts.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        task = asyncio.create_task(build_api(backend)({**SCOPE}, receive, None))
        while not backend.rows:
            await asyncio.sleep(0.001)
        gone.set()
        await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert task.cancelled() and backend.freed == 1 and not backend.rows

    asyncio.run(left())


def test_a_client_that_leaves_while_it_sends_is_no_fault_of_the_service(caplog):
    with serving(backend := Painter()) as url:
        for kind, path in (("application/json", "/v1/images/generations"),
                           ("multipart/form-data; boundary=x", "/v1/images/edits")):  # fmt: skip
            with connect(url) as leaving:
                leaving.sendall(head(1000, path, kind) + b"--x\r\n")
        assert generate(url).status_code == 200
    assert len(backend.wishes) == 1
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_body_that_drips_is_408_and_the_connection_closes_while_others_are_served(monkeypatch):
    monkeypatch.setattr(request_middleware, "GRACE_S", 1.0)
    with serving(Painter()) as url, connect(url) as slow:
        slow.sendall(head(1000) + b'{"prompt"')
        began = time.monotonic()
        assert generate(url).status_code == 200
        slow.settimeout(0.05)
        answer = b""
        while b"slow_body" not in answer:
            with suppress(TimeoutError):
                answer += slow.recv(4096)
            with suppress(OSError):
                slow.sendall(b" ")  # a byte now and then does not help
            assert time.monotonic() - began < 30
        assert answer.startswith(b"HTTP/1.1 408") and b"connection: close" in answer.lower()


def test_a_large_upload_may_take_its_time(monkeypatch):
    monkeypatch.setattr(request_middleware, "GRACE_S", 1.0)
    monkeypatch.setattr(request_middleware, "SLOWEST", 5_000)
    body, end = b"--x\r\n" + b"a" * 30_000, time.monotonic() + 1.2
    with serving(Painter()) as url, connect(url) as slow:
        slow.sendall(head(len(body), "/v1/images/edits", "multipart/form-data; boundary=x") + body[:-1])
        while time.monotonic() < end:
            time.sleep(0.05)
        slow.sendall(body[-1:])
        assert slow.recv(12) == b"HTTP/1.1 400"  # not 408: the form is broken


def test_a_thousand_open_connections_leave_room_for_others():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip("this machine allows fewer than 4096 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    try:
        with serving(Painter()) as url, ExitStack() as held:
            for index in range(1000):
                one = held.enter_context(connect(url))
                one.sendall((b"", b"POST /v1/ima", head(100), head(100) + b"{")[index % 4])
            assert all(generate(url, n=2).status_code == 200 for _ in range(5))
            assert httpx.get(f"{url}/health").status_code == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_backend_that_forgets_a_wish_is_answered_for(monkeypatch):
    monkeypatch.setattr(fan_out, "GRACE_S", -119.8)
    with serving(backend := Painter(delay_s=30)) as url:
        assert generate(url).status_code == generate(url, stream=True).status_code == 504
        assert backend.freed == 2


def test_a_stream_shows_life_while_nothing_is_ready(monkeypatch):
    monkeypatch.setattr(fan_out, "PULSE_S", 0.05)
    with serving(Painter(delay_s=0.3)) as url:
        answer = generate(url, stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.startswith(": still drawing\n\n") and "event: image_generation.completed" in answer.text


def test_edits_of_several_megabytes_are_taken_and_longer_bodies_are_refused_at_once():
    noisy = picture(1500, mode="RGB", kind="PNG") + b"\0" * 3_000_000  # bytes after the end of a PNG do no harm
    with serving(Painter()) as url:
        send = lambda data: httpx.post(f"{url}/v1/images/edits", files={"image": ("a.png", data)}, data={"prompt": "a"})  # noqa: E731
        assert send(noisy).status_code == 200
        with connect(url) as large:
            large.sendall(head(10**9, "/v1/images/edits", "multipart/form-data; boundary=x"))
            assert large.recv(12) == b"HTTP/1.1 413"
