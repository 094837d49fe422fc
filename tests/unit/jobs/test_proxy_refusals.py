"""Ray's proxy: what the service refused a moment ago is refused before it is routed, and nothing else is."""

import asyncio
import json
from types import SimpleNamespace

import httpx
import pytest
from starlette.responses import JSONResponse

from ray_jobs.serving import proxy_refusals
from ray_jobs.serving.proxy_refusals import PATH, RefusalMiddleware

REFUSAL = {"error": {"message": "the service is overloaded", "code": "overloaded"}}
SMALL = {"prompt": "a", "size": "32x32"}


async def read_all(receive):
    """The whole body of a request."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body")
    return body


class Service:
    """An application that has room for some requests at a time, and draws until it is told to end."""

    def __init__(self, room):
        self.room, self.asked, self.end = room, [], asyncio.Event()

    async def __call__(self, scope, receive, send):
        self.asked.append(await read_all(receive))
        if not self.room:
            headers = {"Retry-After": "3", "x-request-id": "the first one's", "x-own": "kept"}
            return await JSONResponse(REFUSAL, 503, headers)(scope, receive, send)
        self.room -= 1
        await self.end.wait()
        self.room += 1
        return await JSONResponse({"drawn": True})(scope, receive, send)


@pytest.fixture
def refused(monkeypatch):
    """Model and number of images of each request that the proxy refused."""
    counted = []
    counter = SimpleNamespace(count_refusal=lambda kind: counted.append((kind.model, kind.num_images)))
    monkeypatch.setattr(proxy_refusals, "ProxyMetrics", lambda: counter)
    return counted


def run(room, talk):
    """Let `talk` ask a service behind the middleware."""

    async def main():
        service = Service(room)
        transport = httpx.ASGITransport(RefusalMiddleware(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://proxy") as client:
            return await talk(service, client)

    return asyncio.run(main())


async def fill(service, client, count):
    """Requests that the service draws, which are not answered yet."""
    tasks = [asyncio.create_task(client.post(PATH, json=SMALL)) for _ in range(count)]
    while len(service.asked) < count:
        await asyncio.sleep(0.001)
    return tasks


def test_a_refusal_is_repeated_as_it_was_without_asking_the_service_again(refused):
    async def talk(service, client):
        drawing = await fill(service, client, 2)
        first = await client.post(PATH, json=SMALL)
        again = await client.post(PATH, json=SMALL | {"prompt": "b"}, headers={"x-request-id": "mine"})
        assert len(service.asked) == 3, "the service was not asked a fourth time"
        for answer in (first, again):
            assert (answer.status_code, answer.json(), answer.headers["retry-after"]) == (503, REFUSAL, "3")
        assert again.headers["x-own"] == "kept" and again.headers.get_list("x-request-id") == ["mine"]
        service.end.set()
        assert [answer.json() for answer in await asyncio.gather(*drawing)] == [{"drawn": True}] * 2
        return (await client.post(PATH, json=SMALL)).status_code

    assert run(2, talk) == 200, "a place is free again"
    assert refused == [("", 1)]


@pytest.mark.parametrize(
    "other",
    [
        {"json": SMALL | {"size": "64x64"}},
        {"json": SMALL | {"model": "other"}},
        {"json": SMALL | {"n": 2}},
        {"json": SMALL | {"num_inference_steps": 5}},
        {"json": SMALL | {"steps": 5}},
        {"json": SMALL | {"quality": "low"}},
        {"json": SMALL, "headers": {"Authorization": "Bearer other"}},
        {"json": SMALL, "headers": {"Host": "other"}},
        {"json": SMALL, "headers": {"Idempotency-Key": "k"}},
        {"content": b"[]"},
        {"content": b"{"},
        {"content": b"[" * 60_000},
        {"content": json.dumps(SMALL | {"prompt": "a" * proxy_refusals.MAX_BODY_BYTES}).encode()},
    ],
)
def test_other_requests_are_routed(refused, other):
    async def talk(service, client):
        await fill(service, client, 1)
        await client.post(PATH, json=SMALL)
        before = len(service.asked)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Service, "__call__", _note)
            await client.post(PATH, **other)
        assert len(service.asked) == before + 1 and len(service.asked[-1]) > 0
        service.end.set()

    run(1, talk)
    assert not refused


async def _note(self, scope, receive, send):
    self.asked.append(await read_all(receive))
    await JSONResponse({})(scope, receive, send)


def test_other_paths_and_other_errors_teach_the_proxy_nothing(refused):
    async def talk(service, client):
        service.room = 0
        for _ in range(3):
            await client.post("/v1/images/edits", json=SMALL)
            await client.get("/v1/models")
        return len(service.asked)

    assert run(0, talk) == 6

    async def failing(scope, receive, send):
        await receive()
        away = {"error": {"code": "store_unreachable"}}  # not an overload
        await JSONResponse(away, 503, {"Retry-After": "5"})(scope, receive, send)

    async def ask():
        transport = httpx.ASGITransport(RefusalMiddleware(failing))
        async with httpx.AsyncClient(transport=transport, base_url="http://proxy") as client:
            await asyncio.gather(*(client.post(PATH, json=SMALL) for _ in range(4)))
        (memory,) = client._transport.app._memories._memories.values()
        memory.in_flight = 100
        return memory.known_refusal()

    assert asyncio.run(ask()) is None and not refused


def test_a_body_that_comes_late_is_routed_whole(refused, monkeypatch):
    """As a server has it, whose `receive` may be given up and called again."""
    monkeypatch.setattr(proxy_refusals, "BODY_S", 0.01)
    read = []

    async def app(scope, receive, send):
        read.append(await read_all(receive))

    async def ask():
        parts = asyncio.Queue()
        parts.put_nowait({"type": "http.request", "body": b"{", "more_body": True})
        scope = {"type": "http", "method": "POST", "path": PATH, "headers": []}
        asking = asyncio.create_task(RefusalMiddleware(app)(scope, parts.get, None))
        await asyncio.sleep(0.05)
        parts.put_nowait({"type": "http.request", "body": b"}"})
        await asking

    asyncio.run(ask())
    assert read == [b"{}"]


def test_half_a_refusal_is_not_sent_again(refused):
    async def cut_off(scope, receive, send):
        await read_all(receive)
        headers = [(b"retry-after", b"3"), (b"content-length", b"9")]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ConnectionAbortedError

    async def ask():
        app = RefusalMiddleware(cut_off)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://proxy") as client:
            await asyncio.gather(*(client.post(PATH, json=SMALL) for _ in range(4)), return_exceptions=True)
        (memory,) = app._memories._memories.values()
        memory.in_flight = 100
        return memory.known_refusal()

    assert asyncio.run(ask()) is None and not refused


def test_a_client_that_leaves_is_not_in_flight_any_more(refused):
    async def talk(service, client):
        (leaving,) = await fill(service, client, 1)
        middleware = client._transport.app
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        (memory,) = middleware._memories._memories.values()
        return memory.in_flight

    assert run(1, talk) == 0
