"""Bearer keys: kept as hashes, read again while the service runs, with quotas that are kept to."""

import asyncio
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from emoji_ldm.config.serve import ServeConfig
from emoji_ldm.errors import ConfigError, StoreError
from emoji_ldm.serve import api_keys as keys_module
from emoji_ldm.serve import auth
from emoji_ldm.serve.api_keys import change_keys, new_key, read_keys, write_keys
from emoji_ldm.serve.app import build_api
from emoji_ldm.serve.auth import ApiKeyCache, TokenBucket, unauthenticated_warning
from emoji_ldm.serve.backend import Overloaded
from ray_jobs.cli.main import main
from tests.unit.serve.fake_backend import Painter, picture, serving, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "keys.json")


def call(api, secret, path="/v1/models", **options):
    async def send():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test") as client:
            headers = {"Authorization": secret} if secret else {}
            return await client.request("POST" if options else "GET", path, headers=headers, **options)

    return asyncio.run(send())


def add(path, name="alice", kind="interactive", quota=0, expires=None):
    secret, key = new_key(name, kind, quota, expires)
    write_keys(path, (*(read_keys(path) or ()), key))
    return secret


def test_the_command_prints_a_key_once_and_the_file_holds_no_trace_of_it(path, capsys, tmp_path):
    assert main(["keys", "add", "alice", "--quota", "60", "--expires", "30d", f"serve.keys={path}"]) == 0
    secret = capsys.readouterr().out.strip()
    [key] = read_keys(path)
    assert len(secret) > 43 and secret[9:] not in (tmp_path / "keys.json").read_text()
    assert (key.name, key.kind, key.images_per_minute) == ("alice", "interactive", 60) and not key.expired()
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600
    assert main(["keys", "list", f"serve.keys={path}"]) == 0
    assert "alice" in (shown := capsys.readouterr().out) and "60 images/min" in shown and secret not in shown
    assert main(["keys", "revoke", "alice", f"serve.keys={path}"]) == 0
    assert read_keys(path) == ()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["add", "alice"], "there is a key 'alice' already"),
        (["add", "a b"], "refused"),
        (["add"], "takes one name"),
        (["add", "bob", "--expires", "soon"], "write 30d"),
        (["add", "bob", "--expires", "2020-01-01"], "over already"),
        (["add", "bob", "--quota", "-1"], "images a minute"),
        (["revoke", "alcie"], "did you mean 'alice'?"),
        (["list", "alice"], "list does not take 'alice'"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(path, words, text, capsys):
    add(path)
    before = read_keys(path)
    assert main(["keys", *words, f"serve.keys={path}"]) == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1 and read_keys(path) == before


def test_who_changes_the_file_at_the_same_time_loses_nothing_of_the_others(path, tmp_path):
    def added(name):
        def change(keys):
            time.sleep(0.01)
            return (*(keys or ()), new_key(name, "interactive", 0, None)[1])

        change_keys(path, change)

    names = [f"key-{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(added, names))
    assert sorted(key.name for key in read_keys(path)) == names
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in tmp_path.iterdir())


class Shelf:
    """One object behind the requests that a change makes; the first PUT may win though its answer is lost."""

    def __init__(self, loses_answer=False):
        self.data, self.tag, self.loses_answer, self.calls = b"", 0, loses_answer, 0

    def read_tagged(self, path):
        return (self.data, str(self.tag)) if self.tag else None

    def put_if_same(self, data, path, tag):
        self.calls += 1
        if self.calls == 1 and not self.loses_answer:  # somebody else is quicker
            self.data, self.tag = keys_module.KEY_FILE.dump_json({"keys": (OTHER,)}), self.tag + 1
        if tag != str(self.tag):
            return False
        self.data, self.tag = data, self.tag + 1
        return not self.loses_answer

    def put_if_absent(self, data, path):
        return self.put_if_same(data, path, "0")


OTHER = new_key("other", "bulk", 0, None)[1]


@pytest.mark.parametrize(("loses_answer", "names"), [(False, ["other", "alice"]), (True, ["alice"])])
def test_in_a_store_who_loses_a_race_reads_again_and_a_lost_answer_makes_no_second_key(
    loses_answer, names, monkeypatch, capsys
):
    shelf = Shelf(loses_answer)
    monkeypatch.setattr(keys_module, "s3", shelf)
    assert main(["keys", "add", "alice", "serve.keys=s3://bucket/keys.json"]) == 0
    secret = capsys.readouterr().out.strip()
    kept = keys_module.KEY_FILE.validate_json(shelf.data)["keys"]
    assert [key.name for key in kept] == names and kept[-1].sha256 == keys_module.hash_key(secret)


@pytest.mark.parametrize("words", [["add", "alice"], ["list", "serve.keys=none.json"]])
def test_without_a_file_the_command_says_how_to_name_one(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["keys", *words]) == 2
    assert "serve.keys=" in capsys.readouterr().err


def test_only_who_has_a_key_comes_in_but_health_and_docs_are_open(path):
    secret = add(path)
    api = build_api(Painter(), ServeConfig(keys=path))
    assert call(api, f"Bearer {secret}").status_code == call(api, f"bearer  {secret} ").status_code == 200
    for wrong in ("", "Bearer ", f"Basic {secret}", secret, f"Bearer {secret}x", "Bearer \udcff", "Bearer ключ"):
        headers = wrong.encode(errors="surrogateescape") if wrong else ""
        answer = call(api, headers)
        assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key", wrong
        assert answer.headers["www-authenticate"] == "Bearer" and secret not in answer.text
    for open_path in ("/health", "/docs", "/openapi.json"):
        assert call(api, "", open_path).status_code == 200


def test_a_key_for_jobs_draws_no_images_while_it_waits(path):
    secret = add(path, kind="bulk")
    api = build_api(backend := Painter(), ServeConfig(keys=path))
    answer = call(api, f"Bearer {secret}", "/v1/images/generations", json={"prompt": "a"})
    assert answer.status_code == 403 and answer.json()["error"]["type"] == "permission_error"
    assert call(api, f"Bearer {secret}").status_code == 200 and not backend.wishes


def test_a_wish_carries_the_name_of_the_key_and_the_id_of_the_request(path):
    secret = add(path, "bob")
    api = build_api(backend := Painter(), ServeConfig(keys=path, timeout_s=7))
    answer = call(api, f"Bearer {secret}", "/v1/images/generations", json={"prompt": "a"})
    [wish] = backend.wishes
    assert (wish.tenant, wish.bulk, wish.timeout_s) == ("bob", False, 7)
    assert wish.request_id == answer.headers["x-request-id"]


def status(url, secret):
    return httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {secret}"}).status_code


def test_keys_are_made_and_revoked_while_the_service_runs(path, monkeypatch):
    monkeypatch.setattr(auth, "REFRESH_S", 0.02)
    first = add(path, "first")
    with serving(Painter(), ServeConfig(keys=path)) as url:
        second = add(path, "second")
        wait_until(lambda: status(url, second) == 200)
        write_keys(path, read_keys(path)[1:])
        wait_until(lambda: status(url, first) == 401)
        assert status(url, second) == 200


def test_no_request_waits_for_the_keys_to_be_read_again(path, monkeypatch):
    secret, hangs = add(path), threading.Event()
    with serving(Painter(), ServeConfig(keys=path)) as url:
        monkeypatch.setattr(auth, "read_keys", lambda uri: hangs.wait() and read_keys(uri))
        monkeypatch.setattr(auth, "REFRESH_S", 0.02)
        try:
            assert [status(url, secret) for _ in range(3)] == [200] * 3
        finally:
            hangs.set()


def test_keys_are_read_again_from_the_start_of_the_application_on(path, monkeypatch):
    """So that a key that was revoked while nobody asked is refused at the first request."""
    monkeypatch.setattr(auth, "REFRESH_S", 0.02)
    secret = add(path)
    api, reads = build_api(Painter(), ServeConfig(keys=path)), []
    write_keys(path, ())
    monkeypatch.setattr(auth, "read_keys", lambda uri: reads.append(uri) or read_keys(uri))

    async def started():
        lives = asyncio.create_task(api({"type": "lifespan"}, asyncio.Event().wait, None))
        async with asyncio.timeout(10):
            while len(reads) < 2:
                await asyncio.sleep(0.005)
        transport = httpx.ASGITransport(api)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.get("/v1/models", headers={"Authorization": f"Bearer {secret}"})
        lives.cancel()
        return answer.status_code

    assert asyncio.run(started()) == 401


def test_a_file_that_breaks_keeps_the_former_keys_and_one_that_is_gone_holds_none(path, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(auth, "REFRESH_S", 0.02)
    secret = add(path)
    with serving(Painter(), ServeConfig(keys=path)) as url:
        assert status(url, secret) == 200
        (tmp_path / "keys.json").write_text('{"keys": [')
        wait_until(lambda: "cannot be read again" in caplog.text)
        assert status(url, secret) == 200
        (tmp_path / "keys.json").unlink()
        wait_until(lambda: status(url, secret) == 401)


def test_a_key_ends_when_its_time_is_over(path):
    secret = add(path, expires=datetime.now(UTC) - timedelta(seconds=1))
    answer = call(build_api(Painter(), ServeConfig(keys=path)), f"Bearer {secret}")
    assert answer.status_code == 401 and "ended at" in answer.json()["error"]["message"]


def test_a_service_does_not_start_with_keys_that_are_not_there_or_none_of_ours(path, tmp_path):
    with pytest.raises(ConfigError, match="emoji-ldm keys add"):
        build_api(Painter(), ServeConfig(keys=path))
    for content in ("{", "[]", '{"keys": [{"name": "a"}]}', '{"keys": [{"name": "a", "sha256": "", "expires": "x"}]}'):
        (tmp_path / "keys.json").write_text(content)
        with pytest.raises(ConfigError, match="no file of keys"):
            ApiKeyCache(path)
    with pytest.raises(StoreError):
        ApiKeyCache("s3://bucket/")


def test_a_quota_is_refilled_as_time_goes_and_debts_are_paid_first(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    bucket = TokenBucket(60)
    assert bucket.take(50) == 0 and bucket.take(10) == 0
    assert bucket.take(1) == pytest.approx(1.0)
    now[0] += 61
    assert bucket.take(600) == 0, "a job of ten minutes' worth needs a full bucket"
    assert bucket.take(1) == pytest.approx(541.0)
    now[0] += 541
    assert bucket.take(1) == 0


def test_images_that_were_not_drawn_are_not_charged(path):
    secret = add(path, quota=3)
    api = build_api(backend := Painter(fail=Overloaded()), ServeConfig(keys=path))
    ask = lambda **more: call(api, f"Bearer {secret}", "/v1/images/generations", json={"prompt": "a", "n": 3, **more})  # noqa: E731
    assert [ask().status_code, ask(stream=True).status_code, ask(size="7x7").status_code] == [503, 503, 400]
    backend.fail = None
    assert ask().status_code == 200
    refused = call(
        api, f"Bearer {secret}", "/v1/images/edits", files={"image": ("a.png", picture())}, data={"prompt": "a"}
    )
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) <= 20
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"


@pytest.mark.parametrize(
    ("host", "keys", "warns"),
    [("127.0.0.1", "", False), ("localhost", "", False), ("::1", "", False), ("0.0.0.0", "", True),
     ("gpu-box", "", True), ("0.0.0.0", "keys.json", False)],
)  # fmt: skip
def test_a_service_that_others_reach_without_keys_is_worth_a_warning(host, keys, warns):
    assert bool(unauthenticated_warning(ServeConfig(host=host, keys=keys))) == warns
