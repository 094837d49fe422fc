"""Repeated requests under one idempotency key: drawn once, charged once, and never somebody else's response."""

import asyncio
import json

import httpx
import pytest

from emoji_ldm.config.serve import ServeConfig
from emoji_ldm.errors import StoreError
from emoji_ldm.serve.api_keys import new_key, write_keys
from emoji_ldm.serve.app import build_api
from emoji_ldm.serve.backend import Overloaded
from emoji_ldm.serve.state import idempotency
from emoji_ldm.serve.state.expiring_folder import ExpiringFolder
from emoji_ldm.store import Store
from tests.unit.serve.asgi_client import error_of, send
from tests.unit.serve.fake_backend import FakeBackend, image_file


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def draw(api, key="k1", headers=None, **body):
    headers = {"Idempotency-Key": key, **(headers or {})}
    return send(api, "POST", "/v1/images/generations", content=json.dumps({"prompt": "a", **body}), headers=headers)


def test_a_repetition_gets_the_same_response_and_nothing_is_drawn(store):
    api = build_api(backend := FakeBackend(), store=store)
    first, second = draw(api, n=2), draw(api, n=2)
    assert first.content == second.content and len(backend.tasks) == 2
    assert "idempotent-replayed" not in first.headers and second.headers["idempotent-replayed"] == "true"
    assert draw(api, "k2", n=2).content != first.content
    other_process = build_api(backend, store=store)
    assert draw(other_process, n=2).content == first.content


def test_forms_are_repeated_too_whatever_their_boundary_is(store):
    api = build_api(backend := FakeBackend(), store=store)

    def edit(path="edits", colour=(1, 2, 3, 255)):
        files = {"image": ("a.png", image_file(colour=colour))}
        return send(api, "POST", f"/v1/images/{path}", files=files, data={"prompt": "a"},
                    headers={"Idempotency-Key": "k"})  # fmt: skip

    assert edit().content == edit().content and len(backend.tasks) == 1
    assert error_of(edit(colour=(9, 9, 9, 255)), 409) and error_of(edit("variations"), 409)


def test_another_request_under_the_key_is_refused(store):
    api = build_api(FakeBackend(), store=store)
    assert draw(api).status_code == 200
    error = error_of(draw(api, prompt="b"), 409)
    assert (error["code"], error["param"]) == ("idempotency_key_reused", "idempotency_key")


def test_a_request_that_failed_is_a_new_try(store):
    api = build_api(backend := FakeBackend(num_refusals=1), store=store)
    assert error_of(draw(api), 503) and draw(api).status_code == 200
    backend.error = Overloaded()
    assert draw(api).status_code == 200, "the response is there"


def test_a_quota_is_charged_once_and_keys_of_others_are_theirs(store, path):
    (ann, one), (bob, two) = new_key("ann", "interactive", 3, None), new_key("bob", "interactive", 0, None)
    write_keys(path, (one, two))
    api = build_api(FakeBackend(), ServeConfig(keys=path), store=store)
    answers = [draw(api, headers={"Authorization": f"Bearer {ann}"}, n=2) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {200} and len({answer.content for answer in answers}) == 1
    assert draw(api, headers={"Authorization": f"Bearer {bob}"}, n=2).content != answers[0].content


def test_while_the_first_is_in_progress_a_repetition_is_told_to_come_back(store):
    async def both():
        api = build_api(backend := FakeBackend(delay_s=0.3), store=store)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test") as client:

            def call():
                return client.post("/v1/images/generations", json={"prompt": "a"}, headers={"Idempotency-Key": "k"})

            first = asyncio.create_task(call())
            while not backend.tasks:
                await asyncio.sleep(0.005)
            return await call(), await first, await call()

    early, first, late = asyncio.run(both())
    assert error_of(early, 409)["code"] == "request_in_progress" and early.headers["retry-after"] == "1"
    assert first.status_code == 200 and late.content == first.content


def test_a_client_that_left_has_paid_for_its_repetition(store, path):
    secret, key = new_key("ann", "interactive", 2, None)
    write_keys(path, (key,))

    async def leave():
        backend = FakeBackend(delay_s=30)
        api = build_api(backend, ServeConfig(keys=path), store=store)
        headers = {"Idempotency-Key": "k", "Authorization": f"Bearer {secret}"}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test") as client:
            body = {"prompt": "a", "n": 2}
            first = asyncio.create_task(client.post("/v1/images/generations", json=body, headers=headers))
            while not backend.tasks:
                await asyncio.sleep(0.005)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            backend.delay_s, seeds = 0, [task.request.seed for task in backend.tasks]
            again = await client.post("/v1/images/generations", json=body, headers=headers)
            return seeds, again, await client.post("/v1/images/generations", json={"prompt": "b"}, headers=headers)

    seeds, again, other = asyncio.run(leave())
    assert [each["seed"] for each in again.json()["data"]] == seeds
    assert other.status_code == 409, "the key is that of the first request"


def test_what_a_lost_process_had_begun_is_taken_over_with_its_seed(store, monkeypatch):
    api = build_api(backend := FakeBackend(), ServeConfig(timeout_s=30), store=store)
    monkeypatch.setattr(ExpiringFolder, "write", lambda *_: (_ for _ in ()).throw(StoreError("killed")))
    lost = draw(api)
    assert lost.status_code == 200, "the store is not needed to answer"
    monkeypatch.undo()
    assert error_of(draw(api), 409)["code"] == "request_in_progress"
    now = idempotency.time.time()
    monkeypatch.setattr(idempotency.time, "time", lambda: now + 41)
    again = draw(api)
    assert again.json()["data"] == lost.json()["data"] and len(backend.tasks) == 2


def test_a_key_holds_over_midnight(store, monkeypatch):
    api, now = build_api(backend := FakeBackend(), store=store), [1_000_000_000.0]
    monkeypatch.setattr(idempotency.time, "time", lambda: now[0])
    first = draw(api)
    now[0] += 86_400
    assert draw(api).content == first.content
    now[0] += 2 * 86_400
    draw(api)
    assert len(backend.tasks) == 2


def test_a_request_that_is_drawn_over_midnight_is_drawn_once(store, monkeypatch):
    now = [86_400.0 * 11_000 - 1]
    monkeypatch.setattr(idempotency.time, "time", lambda: now[0])

    class Late(FakeBackend):
        async def generate(self, task):
            now[0] += 2
            return await super().generate(task)

    api = build_api(backend := Late(), store=store)
    first = draw(api)
    now[0] += 1000
    assert draw(api).content == first.content and len(backend.tasks) == 1


def test_a_client_that_left_before_it_was_charged_has_not_paid(store, path, monkeypatch):
    secret, key = new_key("ann", "interactive", 1, None)
    write_keys(path, (key,))
    left = []

    async def leave(self, identity, attempt):
        left.append(attempt)

    async def hang(self, images):
        raise asyncio.CancelledError

    monkeypatch.setattr(idempotency.RepeatedRequests, "leave", leave)
    monkeypatch.setattr("emoji_ldm.serve.caller.Caller.charge_soon", hang)
    api = build_api(FakeBackend(), ServeConfig(keys=path), store=store)
    with pytest.raises(asyncio.CancelledError):
        draw(api, headers={"Authorization": f"Bearer {secret}"})
    assert not left


def test_keys_that_cannot_be_kept_are_refused(store):
    api = build_api(backend := FakeBackend(), store=store)
    assert error_of(draw(api, "k" * 256), 400)["param"] == "idempotency_key"
    assert error_of(draw(api, stream=True), 400)["param"] == "idempotency_key"
    assert error_of(draw(build_api(backend)), 400)["param"] == "idempotency_key"
    assert not backend.tasks
