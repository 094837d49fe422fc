"""The processes that decode uploaded images (`image_sandbox`): never the threads that answer requests or draw.

What a header tells is refused first, without any process: a JPEG of hundreds of scans decodes the whole image once for
each of them. A process that takes too much memory or time ends, its upload is refused, and the next one starts another.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import queue
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from emoji_ldm.images.decode import MAX_SCANS, count_scans
from emoji_ldm.serve.backend import Overloaded
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.image_sandbox import REFUSED, REQUEST, RESPONSE

NUM_PROCESSES = 2  # one slow image must not hold up all others
MAX_WAITING = 16  # uploads are in memory while they wait
RETRY_S = 2.0
CPU_S = 10  # for one upload; the largest image that is accepted takes one to three
# The wall clock of a process that waits for a core, or was stopped: the CPU time is the limit that files meet.
TIMEOUT_S = 60.0


class DecodingPool:
    """Decodes uploads in up to `NUM_PROCESSES` processes, which start with the first upload."""

    command = (sys.executable, "-m", "emoji_ldm.serve.image_sandbox")

    def __init__(self, *, cpu_s: int = CPU_S, timeout_s: float = TIMEOUT_S) -> None:
        """Allow so much CPU time, and so much time by the clock, per upload."""
        self.cpu_s, self.timeout_s, self.num_waiting = cpu_s, timeout_s, 0
        self._threads = ThreadPoolExecutor(NUM_PROCESSES, "decoding")
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()

    async def prepare(self, image: bytes, mask: bytes, width_px: int, height_px: int) -> tuple[bytes, bytes]:
        """Return image and mask as PNG files of the size of the canvas.

        Raises:
            RequestError: (400) A file is refused.
            Overloaded: Too many uploads wait.
        """
        refuse_by_header(image, "image")
        refuse_by_header(mask, "mask")
        if self.num_waiting >= MAX_WAITING:
            raise Overloaded(RETRY_S)
        self.num_waiting += 1
        try:
            header = REQUEST.pack(len(image), len(mask), width_px, height_px, self.cpu_s)
            call = asyncio.get_running_loop().run_in_executor(self._threads, self._call, (header, image, mask))
            return await call
        finally:
            self.num_waiting -= 1

    def close(self) -> None:
        """End the idle processes."""
        with suppress(queue.Empty):
            while True:
                _end(self._idle.get_nowait())

    def _call(self, parts: tuple[bytes, bytes, bytes]) -> tuple[bytes, bytes]:
        process = self._take()
        # Killing the process is what ends a read that would otherwise last for ever.
        clock = threading.Timer(self.timeout_s, process.kill)
        clock.start()
        try:
            answer = _exchange(process, parts)
        except OSError:
            answer = None  # it ended while it was written to
        finally:
            clock.cancel()
        if answer is None:
            _end(process)
            raise RequestError("image is refused: it takes too much time or memory to decode; save it again as PNG",
                               param="image", code="image_too_complex")  # fmt: skip
        self._idle.put(process)
        status, first, second = answer
        if status == REFUSED:
            raise RequestError(first.decode(), param=second.decode())
        return first, second

    def _take(self) -> subprocess.Popen[bytes]:
        """Return an idle process that lives, or a new one."""
        with suppress(queue.Empty):
            while (process := self._idle.get_nowait()).poll() is not None:
                _end(process)
            return process
        # Of threads, which the linear algebra of NumPy would start and which count against the limit of memory, none is
        # needed. PYTHONPATH: workers of a cluster may have got this package through `sys.path` alone.
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
                                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # fmt: skip
        return subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                env=environment)  # fmt: skip


def refuse_by_header(data: bytes, name: str) -> None:
    """Raise RequestError for a file whose bytes already tell that decoding it takes too long."""
    if (num_scans := count_scans(data)) > MAX_SCANS:
        raise RequestError(f"{name} is refused: a JPEG of {num_scans} scans, and at most {MAX_SCANS} are decoded; save "
                           "it again as PNG", param=name, code="image_too_complex")  # fmt: skip


def _exchange(process: subprocess.Popen[bytes], parts: tuple[bytes, ...]) -> tuple[int, bytes, bytes] | None:
    """Send an upload; returns status and payloads, or None if the process ended."""
    assert process.stdin and process.stdout
    for part in parts:
        process.stdin.write(part)
    process.stdin.flush()
    head = process.stdout.read(RESPONSE.size)
    if len(head) < RESPONSE.size:
        return None
    status, *sizes = RESPONSE.unpack(head)
    first, second = map(process.stdout.read, sizes)
    return (status, first, second) if (len(first), len(second)) == tuple(sizes) else None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    with suppress(OSError):  # what was left to flush
        process.communicate()


# One per process: uploads of all requests share the limits.
POOL = DecodingPool()
atexit.register(POOL.close)
