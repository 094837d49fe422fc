"""Links to generated images (`response_format=url`): signed, and valid for an hour.

    /v1/links/<expiry>-<random>.<format>?signature=<HMAC-SHA256 of the part before>

The signature is what admits whoever has the link, without a key; nothing else can be guessed from it. Its secret lies
in the store, so that every process of the service, today or after a restart, accepts the links of all others.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
import time
from functools import cached_property

from fastapi import APIRouter, Request, Response

from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.state.expiring_folder import ExpiringFolder
from emoji_ldm.store import Store

LINKS_PREFIX = "/v1/links/"  # without a key, see `auth`
LIFETIME_S = 3600  # as long as OpenAI's links
SECRET_PATH = ("keys", "links.secret")
NAME = re.compile(r"([0-9]{10})-[0-9a-f]{32}\.(png|webp|jpeg)")
CONTENT_TYPES = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}
# A linked file is shown by browsers on the service's own origin: it must not be taken for anything but an image.
HEADERS = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; sandbox",
           "Cache-Control": "private, max-age=3600, immutable"}  # fmt: skip


class ImageLinks:
    """Stores images under links that expire."""

    def __init__(self, store: Store) -> None:
        """Keep the images in a store."""
        self.store, self.folder = store, ExpiringFolder(store, "links", LIFETIME_S)

    async def add(self, data: bytes, image_format: str) -> str:
        """Store an image and return the path of its link, from `/v1/` on; raises StoreError."""
        expires_at = int(time.time()) + LIFETIME_S
        name = f"{expires_at}-{secrets.token_hex(16)}.{image_format}"
        await asyncio.to_thread(self.folder.write, data, name, expires_at)
        return f"{LINKS_PREFIX}{name}?signature={await asyncio.to_thread(self._sign, name)}"

    async def read(self, name: str, signature: str) -> bytes:
        """Return the image of a link.

        Raises:
            RequestError: (403) The link is not one of ours; (404) it has expired.
            StoreError: The store cannot be reached.
        """
        match = NAME.fullmatch(name)
        expected = await asyncio.to_thread(self._sign, name)
        # As bytes: of texts, `compare_digest` takes ASCII alone.
        if match is None or not hmac.compare_digest(expected.encode(), signature.encode(errors="replace")):
            raise RequestError("this link is not signed by this service", status=403, code="bad_signature")
        expires_at = int(match[1])
        data = await asyncio.to_thread(self.folder.read, name, expires_at) if time.time() < expires_at else None
        if data is None:
            raise RequestError("this link has expired", status=404, code="link_expired")
        return data

    def _sign(self, name: str) -> str:
        return hmac.new(self._secret, name.encode(), hashlib.sha256).hexdigest()

    @cached_property
    def _secret(self) -> bytes:
        # Of several processes that start at once, one writes it, and all read what that one wrote.
        if not self.store.exists(*SECRET_PATH):
            self.store.write_if_absent(secrets.token_bytes(32), *SECRET_PATH)
        return self.store.read(*SECRET_PATH)


def link_routes(links: ImageLinks) -> APIRouter:
    """Build the route that links lead to."""
    router = APIRouter(tags=["images"])

    @router.get(
        LINKS_PREFIX + "{name}",
        response_class=Response,
        responses={200: {"description": "The image", "content": {kind: {} for kind in CONTENT_TYPES.values()}}},
    )
    async def linked_image(name: str, signature: str = "") -> Response:
        """An image of a response with `response_format=url`; the link is valid for an hour and needs no key."""
        data = await links.read(name, signature)
        return Response(data, media_type=CONTENT_TYPES[name.rpartition(".")[2]], headers=HEADERS)

    return router


def absolute(request: Request, path: str) -> str:
    """Return the URL of a path of this service, by the name that the client called it by."""
    # Behind a proxy that ends TLS, only its header knows the scheme; whoever forges it changes its own response alone.
    forwarded = request.headers.get("x-forwarded-proto", "")
    scheme = forwarded if forwarded in ("http", "https") else request.url.scheme
    return f"{scheme}://{request.url.netloc}{path}"
