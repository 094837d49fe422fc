"""Who asks: bearer keys, their quotas, and the door that lets nobody else in, pages of strangers included."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import math
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from emoji_ldm.config.serve import ServeConfig
from emoji_ldm.errors import ConfigError, EmojiLdmError
from emoji_ldm.serve.api_keys import ApiKey, hash_key, read_keys
from emoji_ldm.serve.errors import RequestError

LOG = logging.getLogger("emoji_ldm.serve")
REFRESH_S = 2.0  # how soon a revoked key is refused
KEY_READER = ThreadPoolExecutor(1, "keys")  # of its own: a store that hangs holds up nothing else
PUBLIC_PATHS = ("/health", "/docs", "/openapi.json")  # they tell nothing of anybody
IMAGES_PREFIX = "/v1/images/"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class TokenBucket:
    """Tokens for images: it holds a minute's worth, is full at first, and may be overdrawn by who finds it full."""

    def __init__(self, images_per_minute: int) -> None:
        """Fill it."""
        self.size = self.tokens = float(images_per_minute)
        self.filled_at = time.monotonic()

    def take(self, images: int) -> float:
        """Take tokens; else the seconds until they can be taken.

        More images than a minute's worth need a full bucket and leave a debt, which the next ones wait for.
        """
        now = time.monotonic()
        self.tokens = min(self.size, self.tokens + (now - self.filled_at) * self.size / 60)
        self.filled_at = now
        missing = min(float(images), self.size) - self.tokens
        if missing > 0:
            return missing * 60 / self.size
        self.tokens -= images
        return 0.0


@dataclass(frozen=True)
class Caller:
    """Who asks; `request.state.caller`. Without a file of keys everybody is nobody, and may do everything."""

    name: str = ""
    bulk_only: bool = False
    bucket: TokenBucket | None = None

    def charge(self, images: int) -> None:
        """Count images against the quota. Raises RequestError (429) if it is used up."""
        wait_s = math.ceil(self.bucket.take(images)) if self.bucket else 0
        if self.bucket and wait_s:
            raise RequestError(f"the key {self.name!r} may draw {self.bucket.size:.0f} images a minute; "
                               f"try again in {wait_s} s", status=429, code="rate_limit_exceeded",
                               headers={"Retry-After": str(wait_s)})  # fmt: skip

    def refund(self, images: int) -> None:
        """Give back what was charged for images that were not drawn."""
        if self.bucket:
            self.bucket.tokens += images


class ApiKeyCache:
    """The keys of a file, read again while the service runs; no request waits for that."""

    def __init__(self, uri: str) -> None:
        """Read the file. ConfigError if it is not there or none of keys."""
        self.uri = uri
        self.work: asyncio.Task[None] | None = None
        self.buckets: dict[tuple[str, int], TokenBucket] = {}
        found = read_keys(uri)
        if found is None:
            raise ConfigError(
                f"serve.keys={uri}: there is no such file; make it: emoji-ldm keys add NAME serve.keys={uri}"
            )
        self.keys = found

    def follow(self) -> None:
        """Read the file again every `REFRESH_S` for as long as the running event loop lives; asked twice, once."""
        if self.work is None or self.work.done():
            self.work = asyncio.get_running_loop().create_task(self._follow())

    def caller(self, authorization: str) -> Caller:
        """Whose key it is. RequestError (401) if there is none, or it is not known any more."""
        scheme, _, secret = authorization.partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise _unknown("this service needs a key; send it as `Authorization: Bearer KEY`")
        asked, known = hash_key(secret.strip()), None
        for key in self.keys:
            if hmac.compare_digest(key.sha256.encode(), asked.encode()):
                known = key
        if known is None:
            raise _unknown("this key is not known here")
        if known.expired():
            raise _unknown(f"this key ended at {known.expires:%Y-%m-%dT%H:%MZ}")
        return Caller(known.name, known.kind == "bulk", self._bucket(known))

    def _bucket(self, key: ApiKey) -> TokenBucket | None:
        if not key.images_per_minute:
            return None
        return self.buckets.setdefault((key.sha256, key.images_per_minute), TokenBucket(key.images_per_minute))

    async def _follow(self) -> None:
        while True:
            await self.refresh()
            await asyncio.sleep(REFRESH_S)

    async def refresh(self) -> None:
        """Read the file again; without it nobody has a key, a broken one changes nothing."""
        try:
            found = await asyncio.get_running_loop().run_in_executor(KEY_READER, read_keys, self.uri)
        except EmojiLdmError as error:
            LOG.error("the keys cannot be read again, the former ones stay valid: %s", error)
        else:
            self.keys = found or ()


class AuthMiddleware:
    """Lets in who has a key, and says who it is in `request.state.caller`; pages of foreign origins change nothing."""

    def __init__(self, app: ASGIApp, keys: ApiKeyCache | None, origins: Collection[str] = ()) -> None:
        """Guard an application; without keys it stands open, but for pages of other origins than `origins`."""
        self.app, self.keys, self.origins = app, keys, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 or 403, or go on."""
        if self.keys:
            self.keys.follow()  # from the lifespan's start on, which comes before all requests
        if scope["type"] == "http":
            try:
                self._refuse_foreign(scope)
                scope.setdefault("state", {})["caller"] = self._caller(scope)
            except RequestError as refusal:
                return await refusal.response()(scope, receive, send)
        await self.app(scope, receive, send)
        return None

    def _refuse_foreign(self, scope: Scope) -> None:
        """Raise RequestError (403) for what a page of a foreign origin would change.

        A browser sends some requests (a form, text/plain) without asking first, to a service on its user's machine
        too; it does name the page's origin.
        """
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is None or scope["method"] in SAFE_METHODS or {origin, "*"} & {*self.origins}:
            return
        if origin.lower().partition("://")[2] != headers.get("host", "").lower():
            raise RequestError(f"pages of {origin} may not do this here; let them with serve.cors_origins='[{origin}]'",
                               status=403, code="foreign_origin")  # fmt: skip

    def _caller(self, scope: Scope) -> Caller:
        if self.keys is None or scope["path"] in PUBLIC_PATHS:
            return Caller()
        caller = self.keys.caller(Headers(scope=scope).get("authorization", ""))
        if caller.bulk_only and scope["path"].startswith(IMAGES_PREFIX):
            raise RequestError(f"the key {caller.name!r} is for jobs only (POST /v1/emoji-sets, /v1/batches); "
                               "images while you wait need a key of the kind interactive", status=403,
                               code="insufficient_permissions")  # fmt: skip
        return caller


def unauthenticated_warning(settings: ServeConfig) -> str:
    """A line for who starts a service that others reach and that asks nobody for a key; else empty."""
    if settings.keys or _is_loopback(settings.host):
        return ""
    return (
        f"warning: everybody who reaches {settings.host}:{settings.port} may draw; to ask for keys, make one with "
        "`emoji-ldm keys add NAME serve.keys=keys.json` and serve with serve.keys=keys.json"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _unknown(message: str) -> RequestError:
    return RequestError(message, status=401, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def caller_of(request: Request) -> Caller:
    """Who asks; nobody where the application has no door."""
    return getattr(request.state, "caller", None) or Caller()


def owner_of(request: Request) -> str:
    """Whose jobs a request is about: the name of its key, empty where nobody needs one."""
    return caller_of(request).name
