"""Repeated requests with one `Idempotency-Key`: they are generated and charged once.

    <store>/idempotency/<period>/<hash of owner and key>.claim   {"digest", "seed", "until"}, written first
    <store>/idempotency/<period>/<hash of owner and key>.body    the response, written last

A repeated request gets the stored response. While the first one is in progress, a repetition is told to come back; if
the process that had it is gone, it is taken over after the time that a request may take, with the same seed: the images
are those that the lost response had. A client that leaves has paid, so its repetition has not to pay again. A request
that fails leaves no trace: its repetition is a new try.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import time
from dataclasses import asdict, dataclass

from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.state.expiring_folder import ExpiringFolder
from emoji_ldm.store import Store

PERIOD_S = 24 * 3600  # a key means the same request for one to two days
MAX_KEY = 255  # characters
GRACE_S = 10.0  # beyond the time that a request may take
RETRY_S = 1


@dataclass(frozen=True)
class Claim:
    """What is known of a request from the moment at which it was accepted; the field names are part of the format."""

    digest: str  # of the request
    seed: int  # of its first image
    until: float  # Unix time: by then it has ended, or its process is gone
    is_paid: bool = False  # whether it was charged by a client that left before the response


@dataclass(frozen=True)
class Attempt:
    """How to go on with a request."""

    seed: int
    expires_at: float  # of the folder with its files, which stays the same one if the day ends meanwhile
    body: bytes | None = None  # the response, if there is one already
    is_paid: bool = False


@dataclass(frozen=True)
class RequestIdentity:
    """One request under an idempotency key."""

    owner: str
    key: str
    digest: str

    @property
    def name(self) -> str:
        """The name of its files; JSON keeps owner and key apart."""
        return hashlib.sha256(json.dumps([self.owner, self.key]).encode()).hexdigest()


def request_identity(owner: str, key: str, *parts: bytes) -> RequestIdentity:
    """Return the identity of a request with these parts; raises RequestError if the key is too long."""
    if len(key) > MAX_KEY:
        raise RequestError(f"the idempotency key is longer than {MAX_KEY} characters", param="idempotency_key")
    digest = hashlib.sha256()
    for part in parts:
        # Each part by its own digest, so that the end of one cannot be taken for the beginning of the next.
        digest.update(hashlib.sha256(part).digest())
    return RequestIdentity(owner, key, digest.hexdigest())


class RepeatedRequests:
    """The requests of a store that have idempotency keys; stateless."""

    def __init__(self, store: Store, timeout_s: float) -> None:
        """Take requests over that have lasted longer than `timeout_s`."""
        self.folder, self.timeout_s = ExpiringFolder(store, "idempotency", PERIOD_S), timeout_s

    async def begin(self, identity: RequestIdentity, seed: int) -> Attempt:
        """Return how to go on: with the response that was generated before, or by generating it now.

        Raises:
            RequestError: (409) The key belongs to another request, or this one is in progress.
            StoreError: The store cannot be reached.
        """
        return await asyncio.to_thread(self._begin, identity, seed)

    async def finish(self, identity: RequestIdentity, attempt: Attempt, body: bytes) -> None:
        """Store the response; raises StoreError."""
        await asyncio.to_thread(self.folder.write, body, f"{identity.name}.body", attempt.expires_at)

    async def leave(self, identity: RequestIdentity, attempt: Attempt) -> None:
        """Let the next repetition go on where a client has left that had paid; raises StoreError."""
        data = json.dumps(asdict(Claim(identity.digest, attempt.seed, 0.0, is_paid=True))).encode()
        await asyncio.to_thread(self.folder.write, data, f"{identity.name}.claim", attempt.expires_at)

    async def forget(self, identity: RequestIdentity, attempt: Attempt) -> None:
        """Forget a request that failed; raises StoreError."""
        await asyncio.to_thread(self.folder.remove, f"{identity.name}.claim", attempt.expires_at)

    def _begin(self, identity: RequestIdentity, seed: int) -> Attempt:
        # A key that was used before midnight is looked for in the folder of that day as well.
        now = time.time()
        claim = Claim(identity.digest, seed, now + self.timeout_s + GRACE_S)
        data = json.dumps(asdict(claim)).encode()
        today = self._expires_at()
        for expires_at in (today - PERIOD_S, today):
            found = self._find(identity, expires_at)
            if found is None and expires_at == today:
                if self.folder.write_if_absent(data, f"{identity.name}.claim", expires_at):
                    return Attempt(seed, expires_at)
                found = self._find(identity, expires_at)
            if found is not None:
                if (body := self.folder.read(f"{identity.name}.body", expires_at)) is not None:
                    return Attempt(found.seed, expires_at, body)
                if now < found.until:
                    raise RequestError("a request with this idempotency key is in progress", status=409,
                                       code="request_in_progress", headers={"Retry-After": str(RETRY_S)})  # fmt: skip
                self.folder.write(json.dumps({**asdict(claim), "seed": found.seed}).encode(),
                                  f"{identity.name}.claim", expires_at)  # fmt: skip
                return Attempt(found.seed, expires_at, is_paid=found.is_paid)
        # Refused although nothing is there: the other request has failed in this moment.
        raise RequestError("a request with this idempotency key has just failed", status=409,
                           code="request_in_progress", headers={"Retry-After": str(RETRY_S)})  # fmt: skip

    def _find(self, identity: RequestIdentity, expires_at: float) -> Claim | None:
        data = self.folder.read(f"{identity.name}.claim", expires_at)
        claim = Claim(**json.loads(data)) if data else None
        if claim and claim.digest != identity.digest:
            raise RequestError("this idempotency key was used for another request", status=409,
                               param="idempotency_key", code="idempotency_key_reused")  # fmt: skip
        return claim

    def _expires_at(self) -> float:
        return (math.floor(time.time() / PERIOD_S) + 1) * PERIOD_S
