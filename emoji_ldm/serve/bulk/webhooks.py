"""Webhooks: a job that has ended is told to the URL that its creator named, signed, until it is received.

    sets/hooks/<id>         marker: exists from the job's creation until it was told, or given up
    sets/<id>/webhook.json  how that ended

Messages and signatures follow the specification Standard Webhooks, as OpenAI's do: the client verifies them by
`client.webhooks.unwrap`. A message may come twice, if its receipt was lost or a process died between: `webhook-id` is
the same then.

A URL from a stranger must not reach what only this service reaches. So only https URLs at public addresses are called,
at the very address that was checked, and redirects are not followed; `serve.webhook_hosts` names the exceptions.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import json
import logging
import random
import socket
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import httpx

from emoji_ldm.errors import BulkJobError, StoreError
from emoji_ldm.serve.bulk.bulk_job import BulkJob
from emoji_ldm.serve.bulk.job_state import JobProgress, JobState
from emoji_ldm.serve.bulk.job_store import HOOKS, JobStore

LOG = logging.getLogger(__name__)
SECRET_PREFIX = "whsec_"
MIN_SECRET_BYTES, MAX_SECRET_BYTES = 24, 64  # as the specification says
RESULT = "webhook.json"
POLL_S = 5.0
TIMEOUT_S = 10.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 3600.0  # between tries; each pause is twice the one before
GIVEN_UP_S = 24 * 3600.0  # after the job's end
ABANDONED_S = 3600.0  # a creation takes seconds, so a marker without a job after an hour is of one that died
MAX_AT_ONCE = 8


@dataclass(frozen=True)
class Delivery:
    """The state of a webhook, stored as JSON: the field names are part of the format."""

    marked_at: float  # Unix time
    tries: int = 0
    next_at: float = 0.0
    status: str = "pending"  # pending | delivered | failed
    error: str = ""


def check_webhook(url: str, secret: str, hosts: Collection[str] = ()) -> None:
    """Raise ValueError for a webhook that cannot be called, or whose signature would prove nothing."""
    parts = urlsplit(url)
    is_listed = parts.hostname in hosts
    if (
        parts.scheme not in (("https", "http") if is_listed else ("https",))
        or not parts.hostname
        or "@" in parts.netloc
    ):
        raise ValueError("url must be https://HOST/..., without a user name")
    try:
        address = ipaddress.ip_address(parts.hostname)
    except ValueError:
        pass
    else:
        if not is_listed and not address.is_global:
            raise ValueError("url must lead to a public address")
    signing_key(secret)


def signing_key(secret: str) -> bytes:
    """Return the bytes of a secret; raises ValueError."""
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not secret.startswith(SECRET_PREFIX) or not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise ValueError(f"secret must be {SECRET_PREFIX} and {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes in base64")
    return key


def message(job: BulkJob, progress: JobProgress) -> tuple[str, bytes]:
    """Return the id and the body of the message about a job that has ended."""
    name, ended_at = f"evt_{job.id}", int(progress.ended_at or time.time())
    event = {"id": name, "object": "event", "created_at": ended_at, "type": f"{job.kind}.{progress.status}",
             "data": {"id": job.id}}  # fmt: skip
    return name, json.dumps(event).encode()


def signature_headers(secret: str, name: str, body: bytes, timestamp: int) -> dict[str, str]:
    """Return the headers of a message, signed as Standard Webhooks says (section "Signature scheme")."""
    signed = f"{name}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.new(signing_key(secret), signed, hashlib.sha256).digest()).decode()
    return {"content-type": "application/json", "webhook-id": name, "webhook-timestamp": str(timestamp),
            "webhook-signature": f"v1,{signature}"}  # fmt: skip


def webhook_status(jobs: JobStore, job: BulkJob) -> Mapping[str, Any] | None:
    """Return what responses show of a job's webhook; None if it has none. The secret is shown to nobody."""
    if not job.webhook:
        return None
    found = Delivery(0.0)
    for path in (("sets", job.id, RESULT), (*HOOKS, job.id)):
        if jobs.store.exists(*path):
            found = _parse(jobs.store.read(*path))
            break
    return {"url": job.webhook["url"], "status": found.status, "tries": found.tries, "error": found.error or None}


class WebhookSender:
    """Tells the ends of all jobs of a store; a replacement goes on where the last one was killed."""

    def __init__(self, jobs: JobStore, hosts: Collection[str] = (), *, poll_s: float = POLL_S) -> None:
        """Look for jobs that have ended every `poll_s`; `hosts` may be called at private addresses too."""
        self.jobs, self.hosts, self.poll_s = jobs, hosts, poll_s
        self._due: dict[str, float] = {}  # Unix time of the next look at a job
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            try:
                names = await asyncio.to_thread(self.jobs.store.list, *HOOKS)
                self._due = {name: self._due.get(name, 0.0) for name in names if not name.startswith(".")}
                due = [name for name, at in self._due.items() if at <= time.time()]
                await asyncio.gather(*map(self._look, due))
            except StoreError as error:
                LOG.warning("webhooks cannot be listed: %s", error)
            await asyncio.sleep(self.poll_s)

    async def _look(self, job_id: str) -> None:
        try:
            async with self._slots:
                await self._tell(job_id)
        except Exception as error:
            # Whatever is wrong with one job's webhook, the others are told.
            LOG.warning("the webhook of %s pauses: %s", job_id, error, exc_info=not isinstance(error, BulkJobError))
            self._due[job_id] = time.time() + FIRST_PAUSE_S

    async def _tell(self, job_id: str) -> None:
        job = await asyncio.to_thread(self.jobs.find, job_id)
        state = _parse(await asyncio.to_thread(self.jobs.store.read, *HOOKS, job_id))
        if job is None or not job.webhook:
            # Deleted, or not created yet.
            if job or time.time() - state.marked_at > ABANDONED_S:
                await asyncio.to_thread(self.jobs.store.remove, *HOOKS, job_id)
            return
        progress = await asyncio.to_thread(JobState(self.jobs, job).progress)
        if progress.status in ("queued", "in_progress") or time.time() < state.next_at:
            return
        error = await self._send(job, progress)
        tries, now = state.tries + 1, time.time()
        if error and now - (progress.ended_at or now) < GIVEN_UP_S:
            pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (tries - 1)) * random.uniform(1, 1.5)
            state = replace(state, tries=tries, next_at=now + pause_s, error=error)
            await asyncio.to_thread(self.jobs.store.write, _format(state), *HOOKS, job_id)
            self._due[job_id] = state.next_at
            return
        result = replace(state, tries=tries, status="failed" if error else "delivered", error=error)
        await asyncio.to_thread(self.jobs.store.write, _format(result), "sets", job_id, RESULT)
        await asyncio.to_thread(self.jobs.store.remove, *HOOKS, job_id)

    async def _send(self, job: BulkJob, progress: JobProgress) -> str:
        """Send the message; returns why it was not received, or an empty text."""
        assert job.webhook
        name, body = message(job, progress)
        try:
            url, headers, extensions = await self._checked(job.webhook["url"])
            headers |= signature_headers(job.webhook["secret"], name, body, int(time.time()))
            # Without the environment's proxies, which would resolve the name a second time.
            async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as client:
                request = client.build_request("POST", url, content=body, headers=headers, extensions=extensions)
                response = await client.send(request, stream=True)  # whatever it answers is not read
                await response.aclose()
        except (httpx.HTTPError, OSError, ValueError) as error:
            return f"{type(error).__name__}: {error}"[:200]
        return "" if response.is_success else f"status {response.status_code}"

    async def _checked(self, url: str) -> tuple[str, dict[str, str], dict[str, Any]]:
        """Return the URL at the address that its name has now, and what keeps the name for TLS and the server.

        Raises:
            ValueError: The address is not public.
            OSError: The name has no address.
        """
        parts = urlsplit(url)
        assert parts.hostname
        found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_STREAM)
        addresses = [ipaddress.ip_address(entry[4][0]) for entry in found]
        if parts.hostname not in self.hosts and not all(each.is_global and not each.is_multicast for each in addresses):
            raise ValueError(f"{parts.hostname} has an address that is not public")
        literal = f"[{addresses[0]}]" if addresses[0].version == 6 else str(addresses[0])
        port = f":{parts.port}" if parts.port else ""
        at_address = parts._replace(netloc=f"{literal}{port}").geturl()
        return at_address, {"host": f"{parts.hostname}{port}"}, {"sni_hostname": parts.hostname}


def _parse(data: bytes) -> Delivery:
    return Delivery(**json.loads(data))


def _format(delivery: Delivery) -> bytes:
    return json.dumps(asdict(delivery)).encode()
