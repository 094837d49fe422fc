"""A process that makes one emoji pack from uploaded pictures, within limits on memory and CPU time.

As in `image_sandbox`, a file from a stranger can end this process alone, and nothing but a checked ZIP leaves it.

    <folder>/request.json   options, the names and the origin of the pictures, and the CPU seconds
    <folder>/uploads/NNNN   the pictures
    <folder>/pack.zip       written here
    standard output         one JSON object: the summary, or {"refused": message}
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import sys
from pathlib import Path

from emoji_ldm.errors import EmojiLdmError
from emoji_ldm.packs.pack_builder import PackOptions, build_pack
from emoji_ldm.packs.source_pictures import SourcePicture, origin

REQUEST_FILE, UPLOADS_FOLDER, PACK_FILE = "request.json", "uploads", "pack.zip"
TOO_MUCH = "the pictures take too much time or memory; send fewer or smaller ones"
# Of address space: a picture of 2048 x 2048 px takes 16 MB decoded and 67 MB as floats, of which some are held at once.
MAX_MEMORY_BYTES = 3 * 2**30


def main(folder: Path) -> None:
    """Make the pack of a folder."""
    request = json.loads((folder / REQUEST_FILE).read_bytes())
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The kernel ends the process when its CPU time is over, whatever C code it is in.
    resource.setrlimit(resource.RLIMIT_CPU, (request["cpu_s"], resource.RLIM_INFINITY))
    sources = []
    for index, each in enumerate(request["uploads"]):
        data = (folder / UPLOADS_FOLDER / f"{index:04d}").read_bytes()
        sources.append(SourcePicture(each["file"], data, each["name"], origin(each["statements"])))
    try:
        archive, report = build_pack(sources, PackOptions(**request["options"]))
    except EmojiLdmError as error:
        answer: dict[str, object] = {"refused": str(error)}
    except MemoryError:
        answer = {"refused": TOO_MUCH}
    else:
        (folder / PACK_FILE).write_bytes(archive)
        answer = dataclasses.asdict(report)
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    os.nice(5)  # generation goes first
    main(Path(sys.argv[1]))
