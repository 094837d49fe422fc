"""Routes of the studio's files: the page at `/` and what it loads from below `/studio/`.

The files are the same for everybody and hold no state, so any replica of the ingress serves them, and they need no key.
What a person does in the page goes to the public API, with the key that the person has entered.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response

from emoji_ldm.serve.auth import STUDIO_PREFIX
from emoji_ldm.serve.errors import RequestError

STATIC_FOLDER = Path(__file__).parent / "static"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
# The page may load its own files, show pictures that it holds in memory, and call its own origin; nothing else. Without
# inline scripts and styles, and with Trusted Types, no text that a person or a file brings can become code.
CONTENT_SECURITY_POLICY = "; ".join([
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' blob:", "connect-src 'self'",
    "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'",
    "trusted-types 'none'",
])  # fmt: skip
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Asked again at every load, and answered by 304: after an update no page mixes files of two releases for long.
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}


@dataclass(frozen=True)
class StudioFile:
    """One file as it is sent."""

    data: bytes
    compressed: bytes
    etag: str
    media_type: str

    def response(self, request: Request) -> Response:
        """Return the file, or 304 if the browser has it already."""
        headers = {**HEADERS, "ETag": self.etag}
        # A proxy that compresses marks the tag as weak (RFC 9110, section 13.1.2 compares tags without the mark).
        if self.etag in request.headers.get("if-none-match", "").replace("W/", ""):
            return Response(status_code=304, headers=headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            encoded = {**headers, "Content-Encoding": "gzip"}
            return Response(self.compressed, headers=encoded, media_type=self.media_type)
        return Response(self.data, headers=headers, media_type=self.media_type)


def studio_files(folder: Path = STATIC_FOLDER) -> Mapping[str, StudioFile]:
    """Return the files of the studio by their path below the folder; all of them are read, about 240 KB."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in MEDIA_TYPES)
    return {path.relative_to(folder).as_posix(): _read(path) for path in paths}


def studio_routes() -> APIRouter:
    """Build the routes."""
    router, files = APIRouter(include_in_schema=False), studio_files()

    @router.get("/")
    async def page(request: Request) -> Response:
        """The page."""
        return files["index.html"].response(request)

    @router.get(STUDIO_PREFIX + "{name:path}")
    async def file(request: Request, name: str) -> Response:
        """One of its files. Only names that were found at the start are known, so a path with `..` leads nowhere."""
        if name not in files:
            raise RequestError(f"the studio has no file {name[:100]!r}", status=404, code="not_found")
        return files[name].response(request)

    return router


def _read(path: Path) -> StudioFile:
    data = path.read_bytes()
    etag = f'"{hashlib.sha256(data).hexdigest()[:20]}"'
    # mtime=0: equal files give equal bytes in all replicas.
    return StudioFile(data, gzip.compress(data, 9, mtime=0), etag, MEDIA_TYPES[path.suffix])
