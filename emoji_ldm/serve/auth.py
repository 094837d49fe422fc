"""Authentication: bearer keys, and the middleware that admits requests."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from emoji_ldm.config.serve import ServeConfig
from emoji_ldm.errors import ConfigError, EmojiLdmError
from emoji_ldm.serve.api_keys import SCOPES, ApiKey, KeyScope, hash_key, read_keys
from emoji_ldm.serve.caller import Caller
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.host_check import is_loopback
from emoji_ldm.serve.image_quota import ImageQuota, QuotaStore
from emoji_ldm.serve.state.image_links import LINKS_PREFIX
from emoji_ldm.serve.state.usage_meter import UsageMeter

LOG = logging.getLogger("emoji_ldm.serve")
REFRESH_S = 2.0  # a revoked key is refused at the latest after this time
RECORD_S = 60.0  # between records of when keys were last used
# A thread of its own: if the store that holds the key file hangs, no other work waits behind it.
KEY_READER = ThreadPoolExecutor(1, "keys")
# Load balancers probe /health without a key, and people read the documentation before they have one.
# They reveal nothing about users. Links are signed, and need no key either (LINKS_PREFIX).
PUBLIC_PATHS = ("/health", "/docs", "/openapi.json", "/")
STUDIO_PREFIX = "/studio/"  # files of the page at `/`, in which people enter their key
IMAGES_PREFIX = "/v1/images/"
REGISTRY_PREFIX = "/v1/registry"
DATASETS_PREFIX, RUNS_PREFIX = "/v1/datasets", "/v1/runs"  # of whoever runs the service, and not of its users
PACKS_PATH = "/v1/packs"  # for whoever may draw: a pack is made of pictures that the caller has
# Methods that must not change anything (RFC 9110, section 9.2.1), so that any web page may send them.
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
OPERATOR_SCOPES = ("models", "data")


class ApiKeyCache:
    """The keys of a key file, held in memory and refreshed in the background, so that no request waits for the file."""

    def __init__(self, uri: str, usage_uri: str | None = None) -> None:
        """Read the key file.

        Args:
            uri: The key file.
            usage_uri: Folder for what keys have used; None counts in this process alone.

        Raises:
            ConfigError: The file does not exist, or is not a key file.
        """
        self.uri = uri
        self.refresh_task: asyncio.Task[None] | None = None
        self.usage, self.meter = QuotaStore(usage_uri), UsageMeter(usage_uri)
        self.used: dict[str, float] = {}  # Unix time of the last use of keys, by hash, until it is recorded
        self.quotas: dict[tuple[str, int], ImageQuota] = {}  # by the owner and what the key allows
        # A missing file at the start is a mistake in the configuration. Later, it means that all keys were revoked.
        keys = read_keys(uri)
        if keys is None:
            raise ConfigError(
                f"serve.keys={uri}: there is no such file; make it: emoji-ldm keys add NAME serve.keys={uri}"
            )
        self.keys = keys

    def start_refreshing(self) -> None:
        """Refresh the keys every `REFRESH_S` while the running event loop lives; repeated calls have no effect."""
        if self.refresh_task is None or self.refresh_task.done():
            self.refresh_task = asyncio.get_running_loop().create_task(self._refresh_forever())

    def authenticate(self, authorization: str) -> tuple[Caller, ApiKey]:
        """Return the owner of the key in an `Authorization` header, and the key's entry.

        Raises:
            RequestError: (401) There is no key, or it is unknown, revoked or expired.
        """
        # RFC 6750, section 2.1; the name of the scheme is not case-sensitive (RFC 9110, section 11.1).
        scheme, _, secret = authorization.partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise _unauthorized("this service needs a key; send it as `Authorization: Bearer KEY`")
        digest, match = hash_key(secret.strip()), None
        # All keys are compared, each in constant time, so that the response time reveals nothing about them.
        for key in self.keys:
            if hmac.compare_digest(key.sha256.encode(), digest.encode()):
                match = key
        if match is None:
            raise _unauthorized("this key is unknown")
        if match.expired():
            raise _unauthorized(f"this key expired at {match.expires:%Y-%m-%dT%H:%MZ}")
        self.used[match.sha256] = time.time()
        self.meter.count(match.name, requests=1)
        return Caller(match.name, self._quota(match), self.meter), match

    async def refresh(self) -> None:
        """Read the key file again. A missing file revokes all keys; an unreadable one keeps the previous keys."""
        try:
            # The file may lie in S3. A thread reads it, so that a slow store does not block the event loop.
            keys = await asyncio.get_running_loop().run_in_executor(KEY_READER, read_keys, self.uri)
        except EmojiLdmError as error:
            LOG.error("the keys cannot be read again; the previous ones stay valid: %s", error)
        else:
            self.keys = keys or ()
            # Those of revoked keys and of changed quotas; what they counted is in the store.
            known = {(key.name, key.images_per_minute) for key in self.keys}
            self.quotas = {each: quota for each, quota in self.quotas.items() if each in known}

    def record_uses(self) -> None:
        """Write what keys have used, and when they were last used, for `emoji-ldm keys list`."""
        try:
            self.meter.flush()
        except EmojiLdmError as error:
            LOG.error("what keys have used is recorded later: %s", error)
        used, self.used = self.used, {}
        for sha256, last_used in used.items():
            try:
                # A store that fails loses one record of this kind.
                self.usage.change(sha256, partial(replace, last_used=last_used))
            except EmojiLdmError as error:
                LOG.error("the last use of a key cannot be recorded: %s", error)

    async def _refresh_forever(self) -> None:
        record_at = time.monotonic() + RECORD_S
        while True:
            await self.refresh()
            if self.used and time.monotonic() > record_at:
                record_at = time.monotonic() + RECORD_S
                await asyncio.get_running_loop().run_in_executor(KEY_READER, self.record_uses)
            await asyncio.sleep(REFRESH_S)

    def _quota(self, key: ApiKey) -> ImageQuota | None:
        """Return the quota of a key's owner, which survives refreshes; keys of one owner share what they use."""
        if not key.images_per_minute:
            return None
        each = key.name, key.images_per_minute
        if each not in self.quotas:
            self.quotas[each] = ImageQuota(*each, self.usage)
        return self.quotas[each]


class AuthMiddleware:
    """Admits requests with a valid key, sets `request.state.caller`, and refuses cross-origin writes."""

    def __init__(
        self, app: ASGIApp, keys: ApiKeyCache | None, origins: Collection[str] = (), *, is_private: bool = True
    ) -> None:
        """Wrap an application.

        Args:
            app: The application.
            keys: Who may use it; None opens it to everyone, except to web pages of unlisted origins.
            origins: Web origins whose pages may call it.
            is_private: Without keys, whether this machine alone reaches the service, so that callers may do everything.
        """
        self.app, self.keys, self.origins, self.is_private = app, keys, origins, is_private

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 or 403, or pass the request on."""
        if self.keys:
            # The lifespan event comes before all requests, so a key that was revoked
            # while the service was idle is refused at the first request.
            self.keys.start_refreshing()
        if scope["type"] == "http":
            try:
                self._refuse_cross_origin(scope)
                scope.setdefault("state", {})["caller"] = self._caller(scope)
            except RequestError as refusal:
                return await refusal.response()(scope, receive, send)
        await self.app(scope, receive, send)
        return None

    def _refuse_cross_origin(self, scope: Scope) -> None:
        """Raise RequestError (403) if a web page of another origin tries to change something (CSRF).

        Browsers send "simple" requests (forms, text/plain) without a CORS preflight, also to services on the user's
        own machine. They do send the page's origin (Fetch standard, section 3.2).
        """
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        # Clients other than browsers send no Origin. They cannot be tricked into sending a request by a web page.
        if origin is None or scope["method"] in SAFE_METHODS or {origin, "*"} & {*self.origins}:
            return
        # A page that this service itself delivered has the origin of its own Host. The scheme is not compared: behind
        # a proxy that terminates TLS, the service does not know it.
        if origin.lower().partition("://")[2] != headers.get("host", "").lower():
            raise RequestError(f"web pages of {origin} may not call this; allow them with "
                               f"serve.cors_origins='[{origin}]'", status=403, code="foreign_origin")  # fmt: skip

    def _caller(self, scope: Scope) -> Caller:
        needed = _scope_of(scope["method"], scope["path"])
        if self.keys is None and needed in OPERATOR_SCOPES and not self.is_private:
            act = "change its models" if needed == "models" else "see its data sets and trainings"
            raise RequestError(f"a service without keys that others reach lets nobody {act}; serve with serve.keys "
                               f"and a key of the scope `{needed}`", status=403,
                               code="insufficient_permissions")  # fmt: skip
        if self.keys is None or _is_public(scope["path"]):
            return Caller()
        caller, key = self.keys.authenticate(Headers(scope=scope).get("authorization", ""))
        if needed and not key.permits(needed):
            allowed = [each for each in SCOPES if key.permits(each)]
            raise RequestError(f"the key {key.id} of {caller.name!r} is for {', '.join(allowed)} only; this needs "
                               f"{needed}", status=403, code="insufficient_permissions")  # fmt: skip
        return caller


def _scope_of(method: str, path: str) -> KeyScope | None:
    """Return what a key must permit for a request; None if every key may send it."""
    if path.startswith(IMAGES_PREFIX) or (path == PACKS_PATH and method not in SAFE_METHODS):
        return "images"
    if path.startswith(REGISTRY_PREFIX) and method not in SAFE_METHODS:
        return "models"
    if path.startswith((DATASETS_PREFIX, RUNS_PREFIX)):
        return "data"
    if path.startswith(("/v1/models", REGISTRY_PREFIX, PACKS_PATH)):
        return None
    return "read" if method in SAFE_METHODS else "jobs"


def _is_public(path: str) -> bool:
    return path in PUBLIC_PATHS or path.startswith((STUDIO_PREFIX, LINKS_PREFIX))


def unauthenticated_warning(settings: ServeConfig) -> str:
    """Return a warning if other machines can reach the service and it asks for no key; else an empty string."""
    if settings.keys or is_loopback(settings.host):
        return ""
    return (
        f"warning: anyone who can reach {settings.host}:{settings.port} may generate images; to require keys, add one "
        "with `emoji-ldm keys add NAME serve.keys=keys.json` and serve with serve.keys=keys.json"
    )


def _unauthorized(message: str) -> RequestError:
    return RequestError(message, status=401, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
