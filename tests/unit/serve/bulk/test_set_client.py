"""Tests of the HTTP client of emoji sets, against a real server."""

import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from emoji_ldm.errors import ConfigError, JobError
from emoji_ldm.serve.bulk import set_client
from emoji_ldm.serve.bulk.set_client import EmojiSetClient, open_client
from tests.unit.serve.bulk.instant_backend import InstantBackend
from tests.unit.serve.bulk.live_service import serving


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("service"), InstantBackend()) as found:
        yield found


@pytest.fixture
def client(service):
    with open_client(*service) as client:
        yield client


@pytest.fixture
def pauses(monkeypatch):
    """The pauses of the client, which take no time."""
    pauses = []
    monkeypatch.setattr("emoji_ldm.serve.bulk.set_client.time.sleep", pauses.append)
    return pauses


def wait_for(client, job_id):
    while client.status(job_id)["status"] in ("queued", "in_progress"):
        time.sleep(0.02)


def test_a_busy_service_is_retried_after_the_pause_that_it_asks_for(client, pauses, monkeypatch):
    real, busy = client._http.request, [503, 429]

    def request(method, path, **options):
        response = real(method, path, **options)
        if busy:
            response.status_code = busy.pop()
            response.headers["retry-after"] = "3"
        return response

    monkeypatch.setattr(client._http, "request", request)
    assert client.listing(1) == [] and pauses == [3.0, 3.0]


def test_a_service_that_stays_busy_is_given_up_after_some_tries(client, pauses, monkeypatch):
    body = {"error": {"message": "the service is overloaded"}}
    busy = httpx.Response(503, json=body, request=httpx.Request("GET", "http://test"))
    monkeypatch.setattr(client._http, "request", lambda *_, **__: busy)
    with pytest.raises(JobError, match="the service is overloaded"):
        client.listing(1)
    assert len(pauses) == set_client.MAX_TRIES - 1


def test_a_service_that_answered_before_is_waited_for_while_it_restarts(client, pauses, monkeypatch):
    errors = [httpx.ConnectError("refused")] * 12 + [httpx.ReadError("cut")] * 8
    real = client._http.request

    def request(method, path, **options):
        if errors:
            raise errors.pop()
        return real(method, path, **options)

    client.listing(1)
    monkeypatch.setattr(client._http, "request", request)
    assert client.listing(1) == [] and not errors and max(pauses) == set_client.LONGEST_PAUSE_S
    errors.append(httpx.ConnectError("refused"))
    monkeypatch.setattr(set_client, "RESTART_S", 0)
    with pytest.raises(JobError, match="no service answers"):
        client.listing(1)


def test_a_retried_upload_is_sent_whole_and_creates_one_set(client, pauses, monkeypatch, tmp_path):
    (tmp_path / "lines.jsonl").write_text('{"custom_id": "a", "prompt": "a cat"}\n')
    real, lost = client._http.request, [httpx.ReadError("the response was lost")]

    def request(method, path, **options):
        response = real(method, path, **options)
        if lost:
            raise lost.pop()
        return response

    monkeypatch.setattr(client._http, "request", request)
    created = client.create({"name": "once"}, tmp_path / "lines.jsonl")
    assert created["counts"]["total"] == 1 and not lost
    assert [job["id"] for job in client.listing(100) if job["name"] == "once"] == [created["id"]]


def test_files_are_downloaded_in_ranges(client, monkeypatch):
    job_id = client.create({"prompts": ["a"], "n": 50})["id"]
    wait_for(client, job_id)
    name = client.parquet(job_id)[0]["name"]
    whole = client._send("GET", f"/v1/emoji-sets/{job_id}/parquet/{name}").content
    monkeypatch.setattr(set_client, "PART_BYTES", 1000)
    assert client.download(job_id, name) == whole and len(whole) > 2000


def test_mistakes_of_the_user_are_config_errors(service, client):
    with pytest.raises(ConfigError, match="EMOJI_LDM_API_KEY"), open_client(service[0], "wrong") as stranger:
        stranger.listing(1)
    with pytest.raises(ConfigError, match="multiples of 8"):
        client.create({"prompts": ["a"], "size": "7x7"})
    with pytest.raises(ConfigError, match="not the id of a set"):
        client.status("../models")
    with pytest.raises(ConfigError, match="not the URL"):
        EmojiSetClient("ftp://x")


@pytest.mark.slow
def test_the_client_imports_neither_torch_nor_ray_nor_fastapi():
    modules = "emoji_ldm.serve.bulk.set_client, emoji_ldm.serve.bulk.set_download"
    code = f"import sys, {modules}; print([m for m in ('torch', 'ray', 'fastapi') if m in sys.modules])"
    found = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=Path(__file__).parents[4])
    assert found.strip() == "[]"
