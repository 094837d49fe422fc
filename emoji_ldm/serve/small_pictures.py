"""Pictures of the store as small PNG files, and the responses that they are sent in."""

from __future__ import annotations

import io

from PIL import Image, UnidentifiedImageError
from starlette.responses import Response

MAX_PIXELS = 24_000_000  # of a picture in the store: an emoji has few, a sheet of samples some million
KEPT_S = 7 * 24 * 3600


def small_png(data: bytes, side_px: int) -> bytes | None:
    """Return a PNG of at most so many pixels on a side; None if the bytes are no PNG.

    The picture is written again, so that what is served is a PNG, whatever a writer has put beside the pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnidentifiedImageError
            small = image.convert("RGBA")
            small.thumbnail((side_px, side_px))
            stream = io.BytesIO()
            small.save(stream, "PNG")
            return stream.getvalue()
    # SyntaxError: Pillow raises it for PNG files with broken chunks.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def picture_response(png: bytes, tag: str, *, seen: str = "", kept_s: int = KEPT_S) -> Response:
    """Return a picture that a browser can make nothing else of.

    Args:
        png: The file.
        tag: What tells it from others, such as a hash.
        seen: The header `If-None-Match` of the request, for 304 if the client has the picture.
        kept_s: How long clients may keep it without asking.
    """
    headers = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; sandbox",
               "Cache-Control": f"private, max-age={kept_s}", "ETag": f'"{tag}"'}  # fmt: skip
    if f'"{tag}"' in seen:
        return Response(status_code=304, headers=headers)
    return Response(png, headers=headers, media_type="image/png")
