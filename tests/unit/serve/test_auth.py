"""Tests of bearer keys, quotas and cross-origin requests."""

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from emoji_ldm.config.serve import ServeConfig
from emoji_ldm.errors import ConfigError, StoreError
from emoji_ldm.serve import auth
from emoji_ldm.serve.api_keys import new_key, read_keys, write_keys
from emoji_ldm.serve.app import build_api
from emoji_ldm.serve.auth import ApiKeyCache, unauthenticated_warning
from emoji_ldm.serve.backend import Overloaded
from emoji_ldm.serve.bulk.api.router import bulk_routes
from emoji_ldm.store import Store
from tests.unit.serve.asgi_client import call, error_of, send, send_with_key
from tests.unit.serve.fake_backend import FakeBackend, image_file, serving, wait_until


def add_key(path, name="alice", kind="interactive", quota=0, expires=None, scopes=()):
    secret, key = new_key(name, kind, quota, expires, scopes)
    write_keys(path, (*(read_keys(path) or ()), key))
    return secret


def status(url, secret):
    return httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {secret}"}).status_code


@pytest.mark.parametrize(
    ("origin", "method", "origins", "status"),
    [
        ("https://evil.example", "POST", (), 403),
        ("null", "POST", (), 403),
        ("http://test.evil.example", "POST", (), 403),
        ("http://test:81", "POST", (), 403),
        ("https://a.example", "DELETE", (), 403),
        ("https://evil.example", "POST", ("https://a.example",), 403),
        ("https://a.example", "POST", ("https://a.example",), 200),
        ("https://a.example", "POST", ("*",), 200),
        ("https://Test", "POST", (), 200),
        ("https://evil.example", "GET", (), 200),
    ],
)
def test_web_pages_of_unlisted_origins_cannot_change_anything(origin, method, origins, status):
    backend, path = FakeBackend(), "/v1/models" if method == "GET" else "/v1/images/generations"
    headers = {"Origin": origin, "Content-Type": "text/plain"}
    response = call(
        backend, method, path, ServeConfig(cors_origins=origins), headers=headers, content='{"prompt": "a"}'
    )
    assert response.status_code == status and len(backend.tasks) == (status == 200 and method == "POST")
    if status == 403:
        assert "serve.cors_origins" in error_of(response, 403)["message"]


def test_every_route_but_health_and_docs_requires_a_valid_key(path):
    secret = add_key(path)
    api = build_api(FakeBackend(), ServeConfig(keys=path))
    assert (
        send_with_key(api, f"Bearer {secret}").status_code
        == send_with_key(api, f"bearer  {secret} ").status_code
        == 200
    )
    for wrong in ("", "Bearer ", f"Basic {secret}", secret, f"Bearer {secret}x", "Bearer \udcff", "Bearer ключ"):
        headers = wrong.encode(errors="surrogateescape") if wrong else ""
        response = send_with_key(api, headers)
        assert response.status_code == 401 and response.json()["error"]["code"] == "invalid_api_key", wrong
        assert response.headers["www-authenticate"] == "Bearer" and secret not in response.text
    for open_path in ("/health", "/docs", "/openapi.json"):
        assert send_with_key(api, "", open_path).status_code == 200


def test_a_bulk_key_may_not_use_the_image_routes(path):
    secret = add_key(path, kind="bulk")
    api = build_api(backend := FakeBackend(), ServeConfig(keys=path))
    response = send_with_key(api, f"Bearer {secret}", "/v1/images/generations", json={"prompt": "a"})
    assert response.status_code == 403 and response.json()["error"]["type"] == "permission_error"
    assert send_with_key(api, f"Bearer {secret}").status_code == 200 and not backend.tasks


@pytest.mark.parametrize(
    ("scopes", "images", "reads", "deletes"),
    [((), 200, 200, 404), (("images",), 200, 403, 403), (("jobs",), 403, 403, 404), (("read",), 403, 200, 403)],
)
def test_a_key_may_do_what_its_scopes_say(path, tmp_path, scopes, images, reads, deletes):
    headers = {"Authorization": f"Bearer {add_key(path, scopes=scopes)}"}
    backend = FakeBackend()
    routers = [bulk_routes(Store(str(tmp_path / "store")), backend)]
    api = build_api(backend, ServeConfig(keys=path), routers=routers)
    assert send(api, "POST", "/v1/images/generations", json={"prompt": "a"}, headers=headers).status_code == images
    assert send(api, "GET", "/v1/emoji-sets", headers=headers).status_code == reads
    assert send(api, "HEAD", "/v1/files", headers=headers).status_code == reads
    assert send(api, "DELETE", "/v1/emoji-sets/set_0", headers=headers).status_code == deletes
    assert send(api, "GET", "/v1/models", headers=headers).status_code == 200


def test_both_keys_of_a_name_work_share_its_quota_and_their_last_use_is_recorded(path, tmp_path):
    old, new = add_key(path, quota=5), add_key(path, quota=5)
    keys = ApiKeyCache(path, str(tmp_path / "usage"))
    callers = [keys.authenticate(f"Bearer {secret}")[0] for secret in (old, new, new)]
    assert callers[0].quota is callers[1].quota and {caller.name for caller in callers} == {"alice"}
    keys.record_uses()
    times = [keys.usage.read(key.sha256).last_used for key in read_keys(path)]
    assert all(abs(time.time() - each) < 60 for each in times)


def test_a_task_carries_the_name_of_the_key_and_the_id_of_the_request(path):
    secret = add_key(path, "bob")
    api = build_api(backend := FakeBackend(), ServeConfig(keys=path, timeout_s=7))
    response = send_with_key(api, f"Bearer {secret}", "/v1/images/generations", json={"prompt": "a"})
    [task] = backend.tasks
    assert (task.tenant, task.bulk, task.timeout_s) == ("bob", False, 7)
    assert task.request_id == response.headers["x-request-id"]


def test_keys_can_be_added_and_revoked_while_the_service_runs(path, monkeypatch):
    monkeypatch.setattr(auth, "REFRESH_S", 0.02)
    first = add_key(path, "first")
    with serving(FakeBackend(), ServeConfig(keys=path)) as url:
        second = add_key(path, "second")
        wait_until(lambda: status(url, second) == 200)
        write_keys(path, read_keys(path)[1:])
        wait_until(lambda: status(url, first) == 401)
        assert status(url, second) == 200


def test_no_request_waits_for_the_key_file(path, monkeypatch):
    secret, hangs = add_key(path), threading.Event()
    with serving(FakeBackend(), ServeConfig(keys=path)) as url:
        monkeypatch.setattr(auth, "read_keys", lambda uri: hangs.wait() and read_keys(uri))
        monkeypatch.setattr(auth, "REFRESH_S", 0.02)
        try:
            assert [status(url, secret) for _ in range(3)] == [200] * 3
        finally:
            hangs.set()


def test_keys_are_refreshed_from_the_lifespan_start_on(path, monkeypatch):
    """A key that was revoked while the service was idle is refused at the first request."""
    monkeypatch.setattr(auth, "REFRESH_S", 0.02)
    secret = add_key(path)
    api, reads = build_api(FakeBackend(), ServeConfig(keys=path)), []
    write_keys(path, ())
    monkeypatch.setattr(auth, "read_keys", lambda uri: reads.append(uri) or read_keys(uri))

    async def started():
        lives = asyncio.create_task(api({"type": "lifespan"}, asyncio.Event().wait, None))
        async with asyncio.timeout(10):
            while len(reads) < 2:
                await asyncio.sleep(0.005)
        transport = httpx.ASGITransport(api)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            response = await client.get("/v1/models", headers={"Authorization": f"Bearer {secret}"})
        lives.cancel()
        return response.status_code

    assert asyncio.run(started()) == 401


def test_an_unreadable_key_file_keeps_the_previous_keys_and_a_missing_one_revokes_all(
    path, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(auth, "REFRESH_S", 0.02)
    secret = add_key(path)
    with serving(FakeBackend(), ServeConfig(keys=path)) as url:
        assert status(url, secret) == 200
        (tmp_path / "keys.json").write_text('{"keys": [')
        wait_until(lambda: "cannot be read again" in caplog.text)
        assert status(url, secret) == 200
        (tmp_path / "keys.json").unlink()
        wait_until(lambda: status(url, secret) == 401)


def test_an_expired_key_is_refused(path):
    secret = add_key(path, expires=datetime.now(UTC) - timedelta(seconds=1))
    response = send_with_key(build_api(FakeBackend(), ServeConfig(keys=path)), f"Bearer {secret}")
    assert response.status_code == 401 and "expired at" in response.json()["error"]["message"]


def test_a_service_does_not_start_without_a_valid_key_file(path, tmp_path):
    with pytest.raises(ConfigError, match="emoji-ldm keys add"):
        build_api(FakeBackend(), ServeConfig(keys=path))
    for content in ("{", "[]", '{"keys": [{"name": "a"}]}', '{"keys": [{"name": "a", "sha256": "", "expires": "x"}]}'):
        (tmp_path / "keys.json").write_text(content)
        with pytest.raises(ConfigError, match="not a key file"):
            ApiKeyCache(path)
    with pytest.raises(StoreError):
        ApiKeyCache("s3://bucket/")


def test_quotas_of_revoked_keys_are_forgotten(path):
    secrets = [add_key(path, f"key-{number}", quota=5) for number in range(4)]
    keys = ApiKeyCache(path)
    for secret in secrets:
        assert keys.authenticate(f"Bearer {secret}")[0].quota.images_per_minute == 5
    write_keys(path, read_keys(path)[:1])
    asyncio.run(keys.refresh())
    assert list(keys.quotas) == [("key-0", 5)]


def test_images_that_were_not_generated_are_refunded(path, monkeypatch):
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)  # so that the test lies within one minute of the clock
    secret = add_key(path, quota=3)
    api = build_api(backend := FakeBackend(error=Overloaded()), ServeConfig(keys=path))

    def generate(**more):
        body = {"prompt": "a", "n": 3, **more}
        return send_with_key(api, f"Bearer {secret}", "/v1/images/generations", json=body).status_code

    assert [generate(), generate(stream=True), generate(size="7x7")] == [503, 503, 400]
    backend.error = None
    assert generate() == 200
    edit = {"files": {"image": ("a.png", image_file())}, "data": {"prompt": "a"}}
    refused = send_with_key(api, f"Bearer {secret}", "/v1/images/edits", **edit)
    assert refused.status_code == 429 and 0 < int(refused.headers["retry-after"]) <= 60
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"


@pytest.mark.parametrize(
    ("host", "keys", "warns"),
    [("127.0.0.1", "", False), ("localhost", "", False), ("::1", "", False), ("0.0.0.0", "", True),
     ("gpu-box", "", True), ("0.0.0.0", "keys.json", False)],
)  # fmt: skip
def test_a_service_without_keys_on_a_public_address_warns(host, keys, warns):
    assert bool(unauthenticated_warning(ServeConfig(host=host, keys=keys))) == warns
