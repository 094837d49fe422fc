"""The size of an icon's picture, before Pillow decodes it: opening an ICO file already decodes its largest entry."""

from __future__ import annotations

import io
import struct

from PIL.BmpImagePlugin import DibImageFile
from PIL.IcoImagePlugin import IcoFile
from PIL.PngImagePlugin import PngImageFile

MAGIC = b"\0\0\1\0"
PNG = b"\x89PNG\r\n\x1a\n"


def ico_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of what Pillow would decode; None for another format or a broken file.

    The directory's own numbers end at 256 and may lie, so the entry's header is read as Pillow reads it.
    """
    if not data.startswith(MAGIC):
        return None
    file = io.BytesIO(data)
    try:
        offset = IcoFile(file).entry[0].offset
        file.seek(offset)
        if data[offset : offset + len(PNG)] == PNG:
            return PngImageFile(file).size
        width, height = DibImageFile(file).size
        return width, height // 2  # colours, then as many rows of the mask
    except (SyntaxError, IndexError, TypeError, struct.error):  # what Pillow takes for another format
        return None
