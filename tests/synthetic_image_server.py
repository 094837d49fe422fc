"""A fast loopback server of any number of distinct emoji-like images, in a process of its own.

    with SyntheticImageServer(delay_s=0.05) as server:
        server.url(7)      # http://127.0.0.1:41873/7.png

The images are 64 px RGBA PNGs: each number has colours and shapes of its own, the same in every run.
"""

import asyncio
import functools
import io
import subprocess
import sys

import numpy as np
from PIL import Image, ImageDraw

SIDE_PX = 64


@functools.lru_cache(maxsize=4096)
def synthetic_png(number):
    """PNG bytes of one image: five shapes whose colours and places depend on the number only."""
    rng = np.random.default_rng(number)
    image = Image.new("RGBA", (SIDE_PX, SIDE_PX))
    draw = ImageDraw.Draw(image)
    for _ in range(5):
        x, y, width, height = (int(value) for value in rng.integers((0, 0, 16, 16), (40, 40, 40, 40)))
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        shape = (draw.ellipse, draw.rectangle)[int(rng.integers(2))]
        shape((x, y, x + width, y + height), fill=(*colour, 255))
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


class SyntheticImageServer:
    """Runs the server within a `with` block."""

    def __init__(self, delay_s=0.0):
        self.delay_s = delay_s

    def __enter__(self):
        command = [sys.executable, "-m", "tests.synthetic_image_server", str(self.delay_s)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.site = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def url(self, number):
        """URL of an image."""
        return f"{self.site}/{number}.png"


async def _answer(reader, writer, delay_s):
    try:
        while line := await reader.readline():
            while (await reader.readline()).strip():
                pass  # headers
            await asyncio.sleep(delay_s)
            writer.write(_response(line.split()[1].decode()))
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


def _response(path):
    name = path.strip("/").removesuffix(".png")
    body, status, kind = (
        (synthetic_png(int(name)), "200 OK", "image/png") if name.isdecimal() else (b"", "404 -", "text/plain")
    )
    head = f'HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nETag: "{name}"\r\n\r\n'
    return head.encode() + body


async def _serve(delay_s):
    server = await asyncio.start_server(lambda *pair: _answer(*pair, delay_s), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1])))
