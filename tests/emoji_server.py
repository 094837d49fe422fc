"""A fast HTTP server of emoji in a process of its own, for measurements: `python -m tests.emoji_server NUM DELAY_S`.

- `/N.png`, with any query, is image N of NUM.
- `/robots.txt` is the text that the first line of standard input holds, as JSON.
- `/log` is a JSON list of [path, started, ended] of all requests so far, in seconds of the monotonic clock.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

SIDE_PX = 160
ROOT = Path(__file__).parents[1]


@contextmanager
def emoji_server(num: int, *, delay_s: float = 0.0, robots: str = "") -> Iterator[str]:
    """The URL of a server that runs within the context and answers after `delay_s`."""
    command = [sys.executable, "-m", "tests.emoji_server", str(num), str(delay_s)]
    server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        server.stdin.write(json.dumps(robots) + "\n")
        server.stdin.flush()
        yield server.stdout.readline().strip()
    finally:
        server.kill()
        server.wait()


def request_log(url: str) -> list[tuple[str, float, float]]:
    """The (path, started, ended) of all requests so far, in seconds of the monotonic clock."""
    with urllib.request.urlopen(f"{url}/log") as answer:
        return [tuple(entry) for entry in json.load(answer) if entry[0] != "/log"]


def emoji_pngs(num: int) -> list[bytes]:
    """Distinct RGBA PNGs of 160 px, 4 kB on average: real emoji with a margin, in permuted colours."""
    from tests.emoji_images import blobs, openmoji

    sources = [image.data for image in (*openmoji(min(num, 200)), *(blobs(200) if num > 200 else ()))]
    return [_recolored(sources[number % len(sources)], number // len(sources)) for number in range(num)]


def _recolored(data: bytes, variant: int) -> bytes:
    import io

    with Image.open(io.BytesIO(data)) as image:
        canvas = Image.new("RGBA", (SIDE_PX, SIDE_PX))
        canvas.paste(image.convert("RGBA"), ((SIDE_PX - image.width) // 2, (SIDE_PX - image.height) // 2))
    pixels = np.array(canvas)
    order = ([0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 2, 1], [2, 1, 0], [1, 0, 2])[variant % 6]
    pixels[..., :3] = pixels[..., order] ^ np.uint8(variant // 6)
    stream = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(stream, "PNG")
    return stream.getvalue()


class _Connection(asyncio.Protocol):
    """One keep-alive connection. A full HTTP library would take more CPU than the clients that are measured."""

    def __init__(self, bodies: dict[str, bytes], log: list[tuple[str, float, float]], delay_s: float) -> None:
        self.bodies, self.log, self.delay_s = bodies, log, delay_s
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
            path, started = head.split(b" ", 2)[1].decode(), time.monotonic()
            if self.delay_s and path != "/log":
                asyncio.get_running_loop().call_later(self.delay_s, self._answer, path, started)
            else:
                self._answer(path, started)

    def _answer(self, path: str, started: float) -> None:
        body = json.dumps(self.log).encode() if path == "/log" else self.bodies.get(path.partition("?")[0])
        status = b"404 Not Found" if body is None else b"200 OK"
        head = b"HTTP/1.1 %s\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n" % (status, len(body or b""))
        self.log.append((path, started, time.monotonic()))
        self.transport.write(head + (body or b""))  # type: ignore[attr-defined]


async def _serve(num: int, delay_s: float) -> None:
    robots = json.loads(sys.stdin.readline())
    bodies = {f"/{number}.png": body for number, body in enumerate(emoji_pngs(num))} | {"/robots.txt": robots.encode()}
    server = await asyncio.get_running_loop().create_server(partial(_Connection, bodies, [], delay_s), "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2])))
