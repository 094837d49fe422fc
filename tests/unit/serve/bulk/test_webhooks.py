"""Webhooks of bulk jobs: signed as OpenAI's client verifies them, told until received, never to private addresses."""

import asyncio
import base64
import json
import secrets
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai
import pytest

from emoji_ldm.serve.bulk import webhooks
from emoji_ldm.serve.bulk.job_store import HOOKS, JobStore
from emoji_ldm.serve.bulk.webhooks import WebhookSender, check_webhook, webhook_status
from tests.unit.serve.bulk.instant_backend import create, job_lines, keyed_job, run_jobs

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


@contextmanager
def receiver(*statuses):
    """Yield (URL, received (headers, body)s) of a server that answers with these statuses in turn, then with 200."""
    received, answers = [], list(statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append(({name.lower(): value for name, value in self.headers.items()}, body))
            status = answers.pop(0) if answers else 200
            self.send_response(status)
            if status == 302:
                self.send_header("location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://localhost:{server.server_port}/hook", received
    finally:
        server.shutdown()
        server.server_close()


def job_of(store, url, key=None):
    from dataclasses import replace

    job = replace(keyed_job(store, key or secrets.token_hex(4)), webhook={"url": url, "secret": SECRET})
    return create(store, job, job_lines(2))


def send_until(store, condition, hosts=("localhost",), timeout_s=10.0):
    """Let a sender work until a condition holds."""

    async def work():
        task = asyncio.create_task(WebhookSender(JobStore(store), hosts, poll_s=0.02).run())
        deadline = time.monotonic() + timeout_s
        while not condition() and time.monotonic() < deadline:
            assert not task.done(), task.exception()
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(work())
    assert condition()


def is_done(store, job):
    return lambda: not store.exists(*HOOKS, job.id)


def test_the_end_of_a_job_is_told_once_and_the_official_client_accepts_the_signature(store):
    with receiver() as (url, received):
        job = job_of(store, url)
        with pytest.raises(AssertionError):
            send_until(store, lambda: received, timeout_s=0.3)
        run_jobs(store)
        send_until(store, is_done(store, job))
        send_until(store, is_done(store, job))
    ((headers, body),) = received
    event = json.loads(body)
    assert (event["type"], event["data"]) == ("emoji_set.completed", {"id": job.id})
    client = openai.OpenAI(api_key="none", base_url="http://none", webhook_secret=SECRET)
    client.webhooks.verify_signature(body, headers)
    assert client.webhooks.unwrap(body, headers).data.id == job.id
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.verify_signature(body.replace(b"completed", b"cancelled"), headers)
    assert webhook_status(JobStore(store), job) == {"url": url, "status": "delivered", "tries": 1, "error": None}


def test_a_receiver_that_fails_is_told_again_with_the_same_id(store, monkeypatch):
    monkeypatch.setattr(webhooks, "FIRST_PAUSE_S", 0.01)
    with receiver(500, 302, 404) as (url, received):
        job = job_of(store, url)
        run_jobs(store)
        send_until(store, is_done(store, job))
    assert [headers["webhook-id"] for headers, _ in received] == [f"evt_{job.id}"] * 4
    assert webhook_status(JobStore(store), job)["tries"] == 4


def test_a_sender_that_replaces_another_goes_on_and_gives_up_after_a_day(store, monkeypatch):
    job = job_of(store, "http://localhost:1/hook")
    run_jobs(store)
    jobs = JobStore(store)
    send_until(store, lambda: webhook_status(jobs, job)["tries"] == 1)
    shown = webhook_status(jobs, job)
    assert shown["status"] == "pending" and "Connect" in shown["error"]
    now = time.time()
    monkeypatch.setattr(webhooks.time, "time", lambda: now + 25 * 3600)
    send_until(store, is_done(store, job))
    assert webhook_status(jobs, job)["status"] == "failed"


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1.nip.example"])
def test_names_of_private_addresses_are_not_called(store, monkeypatch, name):
    async def lookup(self, host, port, **options):
        return [(2, 1, 6, "", ("127.0.0.1", port))]

    with receiver() as (url, received):
        job = job_of(store, url.replace("localhost", name))
        run_jobs(store)
        monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", lookup)
        send_until(store, lambda: webhook_status(JobStore(store), job)["tries"] == 1, hosts=())
        assert "not public" in webhook_status(JobStore(store), job)["error"] and not received


@pytest.mark.parametrize(
    "url",
    ["http://example.org/x", "ftp://example.org", "https://", "https://u:p@example.org/", "https://10.0.0.1/x",
     "https://[::1]/", "https://169.254.169.254/latest", "x"],
)  # fmt: skip
def test_urls_that_may_not_be_called_are_refused_at_once(url):
    with pytest.raises(ValueError, match="url must"):
        check_webhook(url, SECRET)
    check_webhook("https://example.org/x", SECRET)
    check_webhook("http://hooks.internal/x", SECRET, ("hooks.internal",))


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_" + "A" * 8, "A" * 44, "whsec_!!!!", "whsec_" + "A" * 400])
def test_secrets_that_prove_nothing_are_refused(secret):
    with pytest.raises(ValueError, match="secret must"):
        check_webhook("https://example.org", secret)


def test_markers_of_jobs_that_are_gone_are_removed(store):
    store.write(json.dumps({"marked_at": time.time() - 2 * webhooks.ABANDONED_S}).encode(), *HOOKS, "set_gone")
    store.write(json.dumps({"marked_at": time.time()}).encode(), *HOOKS, "set_new")
    send_until(store, lambda: not store.exists(*HOOKS, "set_gone"))
    assert store.exists(*HOOKS, "set_new"), "its job may be created in this moment"
