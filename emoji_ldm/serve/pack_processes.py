"""Runs `pack_sandbox` processes, a few at a time, and streams the packs that they make.

Uploads go to files at once, and the ZIP comes from one, so that a large pack takes no memory here.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from emoji_ldm.packs.emoji_names import slug
from emoji_ldm.packs.pack_builder import PackOptions
from emoji_ldm.serve.backend import Overloaded
from emoji_ldm.serve.bulk.api.responses import DownloadResponse
from emoji_ldm.serve.caller import Caller
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.pack_sandbox import PACK_FILE, REQUEST_FILE, TOO_MUCH, UPLOADS_FOLDER

MAX_IMAGES = 250  # the largest number of slots of a Discord server
# Packing takes about a tenth of the time of drawing, so ten pictures of a pack count as one image of the quota.
PICTURES_PER_CHARGE = 10
NUM_PROCESSES, MAX_WAITING, RETRY_S = 2, 16, 5.0
# CPU time of one pack; a sticker of 512 px takes about one second.
BASE_CPU_S, CPU_S_PER_IMAGE, MAX_CPU_S = 20, 4, 300
CLOCK_FACTOR = 3  # by the clock, on a machine with other work
CHUNK_BYTES = 256 * 1024
MAX_SAID = 2000  # characters of a stack trace that are logged


@dataclass(frozen=True)
class PackUpload:
    """A picture whose file lies in the folder of a pack."""

    file: str  # its name, for messages
    name: str = ""  # of the emoji; empty takes it from the prompt
    statements: dict[str, Any] = field(default_factory=dict)  # its origin, as far as the file does not state it


class PackProcesses:
    """Starts the processes that make packs, a few at a time."""

    command = (sys.executable, "-m", "emoji_ldm.serve.pack_sandbox")

    def __init__(self) -> None:
        """Start nothing yet."""
        self.num_waiting, self._slots = 0, asyncio.Semaphore(NUM_PROCESSES)

    @asynccontextmanager
    async def folder(self) -> AsyncIterator[Path]:
        """Make a folder for the uploads of one pack, which goes at the end of the block."""
        with tempfile.TemporaryDirectory(prefix="emoji-pack-") as name:
            (Path(name) / UPLOADS_FOLDER).mkdir()
            yield Path(name)

    async def respond(
        self, folder: Path, options: PackOptions, uploads: Sequence[PackUpload], caller: Caller
    ) -> DownloadResponse:
        """Return the pack of the folder's uploads, which are charged to the caller; raises as `build`."""
        charge = -(-len(uploads) // PICTURES_PER_CHARGE)
        await caller.charge_soon(charge)
        try:
            await self.build(folder, options, uploads)
        except Exception:
            await caller.refund_soon(charge)
            raise
        # The folder goes as soon as the ZIP is open: an open file stays readable, and nothing is left after a crash.
        file, size = (folder / PACK_FILE).open("rb"), (folder / PACK_FILE).stat().st_size
        name = f"{slug(options.name)}-{options.target}.zip"
        headers = {"Content-Length": str(size), "Content-Disposition": f'attachment; filename="{name}"'}
        return DownloadResponse(_chunks(file), size=size, media_type="application/zip", headers=headers)

    async def build(self, folder: Path, options: PackOptions, uploads: Sequence[PackUpload]) -> None:
        """Write the pack of the folder's uploads.

        Raises:
            RequestError: (400) A picture or the pack is refused, or takes too much time or memory.
            Overloaded: Too many packs wait.
        """
        if self.num_waiting >= MAX_WAITING:
            raise Overloaded(RETRY_S)
        self.num_waiting += 1
        try:
            async with self._slots:
                answer = await self._run(folder, options, uploads)
        finally:
            self.num_waiting -= 1
        if "refused" in answer:
            raise RequestError(f"the pack is refused: {answer['refused']}", param="image", code="pack_refused")

    async def _run(self, folder: Path, options: PackOptions, uploads: Sequence[PackUpload]) -> dict[str, Any]:
        """Return the answer of one process; raises RuntimeError if it fails for another reason than its limits."""
        cpu_s = min(MAX_CPU_S, BASE_CPU_S + CPU_S_PER_IMAGE * len(uploads))
        request = {"options": dataclasses.asdict(options), "uploads": list(map(dataclasses.asdict, uploads)),
                   "cpu_s": cpu_s}  # fmt: skip
        (folder / REQUEST_FILE).write_text(json.dumps(request))
        # One thread: those of NumPy's linear algebra count against the limit of memory. PYTHONPATH: workers of a
        # cluster may have got this package through `sys.path` alone.
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
                                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            *self.command, str(folder), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE, env=environment,
        )  # fmt: skip
        try:
            async with asyncio.timeout(CLOCK_FACTOR * cpu_s):
                output, said = await process.communicate()
        except TimeoutError:
            return {"refused": TOO_MUCH}
        finally:
            # Also when the client has left, which cancels this call.
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode and process.returncode > 0:
            raise RuntimeError(f"a pack failed: {said[-MAX_SAID:].decode(errors='replace')}")
        # A negative status is a signal: the kernel's for CPU time, or that of a decoder that crashed.
        return {"refused": TOO_MUCH} if process.returncode else json.loads(output)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
