"""Who asks: bearer keys, their quotas, and the door that lets nobody else in."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import math
import time
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from emoji_ldm.config.serve import ServeConfig
from emoji_ldm.errors import ConfigError, EmojiLdmError
from emoji_ldm.serve.answers import RequestError
from emoji_ldm.serve.keys import Key, digest, read_keys

LOG = logging.getLogger("emoji_ldm.serve")
REFRESH_S = 2.0  # how soon a revoked key is refused
OPEN = ("/health", "/docs", "/docs/oauth2-redirect", "/openapi.json")  # they tell nothing of anybody
IMAGES = "/v1/images/"


class Bucket:
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
    bucket: Bucket | None = None

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


class Keys:
    """The keys of a file, read again while the service runs."""

    def __init__(self, uri: str) -> None:
        """Read the file. ConfigError if it is not there or none of keys."""
        self.uri, self.read_at = uri, time.monotonic()
        self.buckets: dict[tuple[str, int], Bucket] = {}
        found = read_keys(uri)
        if found is None:
            raise ConfigError(
                f"serve.keys={uri}: there is no such file; make it: emoji-ldm keys add NAME serve.keys={uri}"
            )
        self.keys = found

    async def caller(self, authorization: str) -> Caller:
        """Whose key it is. RequestError (401) if there is none, or it is not known any more."""
        scheme, _, secret = authorization.partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise _unknown("this service needs a key; send it as `Authorization: Bearer KEY`")
        await self._refresh()
        asked, known = digest(secret.strip()), None
        for key in self.keys:
            if hmac.compare_digest(key.sha256.encode(), asked.encode()):
                known = key
        if known is None:
            raise _unknown("this key is not known here")
        if known.expired():
            raise _unknown(f"this key ended at {known.expires:%Y-%m-%dT%H:%MZ}")
        return Caller(known.name, known.kind == "bulk", self._bucket(known))

    def _bucket(self, key: Key) -> Bucket | None:
        if not key.images_per_minute:
            return None
        return self.buckets.setdefault((key.sha256, key.images_per_minute), Bucket(key.images_per_minute))

    async def _refresh(self) -> None:
        """Read the file again if that is some time ago; without it nobody has a key, a broken one changes nothing."""
        if time.monotonic() - self.read_at < REFRESH_S:
            return
        self.read_at = time.monotonic()
        try:
            found = await asyncio.to_thread(read_keys, self.uri)
        except EmojiLdmError as error:
            LOG.error("the keys cannot be read again, the former ones stay valid: %s", error)
        else:
            self.keys = found or ()


class Door:
    """Lets in who has a key, and says who it is in `request.state.caller`."""

    def __init__(self, app: ASGIApp, keys: Keys | None) -> None:
        """Guard an application; without keys it stands open."""
        self.app, self.keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 or 403, or go on."""
        if scope["type"] == "http":
            try:
                scope.setdefault("state", {})["caller"] = await self._caller(scope)
            except RequestError as refusal:
                return await refusal.response()(scope, receive, send)
        await self.app(scope, receive, send)
        return None

    async def _caller(self, scope: Scope) -> Caller:
        if self.keys is None or scope["path"] in OPEN:
            return Caller()
        caller = await self.keys.caller(Headers(scope=scope).get("authorization", ""))
        if caller.bulk_only and scope["path"].startswith(IMAGES):
            raise RequestError(f"the key {caller.name!r} is for jobs only (POST /v1/emoji-sets, /v1/batches); "
                               "images while you wait need a key of the kind interactive", status=403,
                               code="insufficient_permissions")  # fmt: skip
        return caller


def open_warning(settings: ServeConfig) -> str:
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
