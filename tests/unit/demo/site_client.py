"""Requests to the gallery for its tests."""

import io
from urllib import request
from urllib.error import HTTPError

from PIL import Image


def get(url, **headers):
    """Request a URL; returns status, content type and body."""
    try:
        with request.urlopen(request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read()


def pixels(data):
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "RGBA"
        return image.tobytes()
