"""A process that decodes uploaded images, within limits on memory and CPU time: `decoding_pool` starts and feeds it.

A file from a stranger can make a decoder take minutes, all memory, or crash. Here that ends this process alone. What
leaves it is a PNG of the size of the canvas, made by us: replicas never decode a byte that a stranger has written.

    request   5 unsigned 32-bit integers: bytes of image and mask, sides of the canvas, CPU seconds; the files
    response  a status byte, two such integers, two payloads: the PNG files, or a message and the input that is refused

The protocol is plain bytes and not pickle, since a decoder that was taken over must not gain a hold on the service.
"""

from __future__ import annotations

import io
import os
import resource
import struct
import sys
import time
from typing import IO

import numpy as np
from PIL import Image

from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.request import GenerationRequest, check_image_inputs, load_init_image, load_mask

REQUEST, RESPONSE = struct.Struct("!5I"), struct.Struct("!B2I")
DONE, REFUSED = 0, 1
# Of address space: an image of 4096 x 4096 px takes 64 MB decoded, and several copies of it while it is converted.
MAX_MEMORY_BYTES = 2 * 2**30


def prepare(image: bytes, mask: bytes, width_px: int, height_px: int) -> tuple[bytes, bytes]:
    """Return image and mask (empty if there is none) as PNG files of the canvas, which give the same generated pixels.

    Raises:
        ConfigError: A file cannot be decoded, or the mask does not fit or selects nothing.
    """
    check_image_inputs(GenerationRequest("", image=image, mask=mask))
    canvas = _png(Image.fromarray(load_init_image(image, width_px, height_px), "RGBA"))
    if not mask:
        return canvas, b""
    repaint = load_mask(mask, image, width_px, height_px)
    if not repaint.any():
        raise ConfigError(f"mask selects nothing at {width_px}x{height_px} px: its region is too small")
    # White where it is repainted, without an alpha channel: the second form of masks that `load_mask` reads.
    return canvas, _png(Image.fromarray(repaint.astype(np.uint8) * 255, "L"))


def main() -> None:
    """Serve requests on standard input until it ends, which it does with the service."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while header := source.read(REQUEST.size):
        _serve(header, source, sink)
        # The caches of `request` are for the images of one request; here they would only hold memory.
        load_init_image.cache_clear()
        load_mask.cache_clear()


def _serve(header: bytes, source: IO[bytes], sink: IO[bytes]) -> None:
    image_bytes, mask_bytes, width_px, height_px, cpu_s = REQUEST.unpack(header)
    image, mask = source.read(image_bytes), source.read(mask_bytes)
    # The kernel ends the process when its CPU time is over, whatever C code it is in. A wall clock would blame the file
    # for a busy machine; the pool has one too, but a generous one.
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + cpu_s, resource.RLIM_INFINITY))
    try:
        status, parts = DONE, prepare(image, mask, width_px, height_px)
    except ConfigError as error:
        # Messages of `check_image_inputs` begin with the input that is wrong.
        param = "mask" if str(error).startswith("mask") else "image"
        status, parts = REFUSED, (str(error).encode(errors="backslashreplace"), param.encode())
    sink.write(RESPONSE.pack(status, *map(len, parts)) + b"".join(parts))
    sink.flush()


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


if __name__ == "__main__":
    os.nice(5)  # generation goes first
    main()
