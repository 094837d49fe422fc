"""Large files in parts that any channel takes: `NAME.HASH.003-of-007`, at most 16 MB each."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

PART_BYTES = 16_000_000
PART_NAME = re.compile(r"(?P<name>.+)\.(?P<hash>[0-9a-f]{12})\.(?P<number>\d{3})-of-(?P<count>\d{3})")


def part_of(path: Path) -> str | None:
    """The name of the file that a path is a part of; None if it is no part."""
    found = PART_NAME.fullmatch(path.name)
    return found["name"] if found else None


def split_file(path: Path, folder: Path) -> list[Path]:
    """Write a file's parts into a folder, then remove the parts that an earlier file of this name left there."""
    data = memoryview(path.read_bytes())
    digest, count = hashlib.sha256(data).hexdigest()[:12], max(1, -(-len(data) // PART_BYTES))
    folder.mkdir(parents=True, exist_ok=True)
    parts = [folder / f"{path.name}.{digest}.{number:03d}-of-{count:03d}" for number in range(1, count + 1)]
    for number, part in enumerate(parts):
        part.write_bytes(data[number * PART_BYTES : (number + 1) * PART_BYTES])
    for old in folder.iterdir():
        if old not in parts and part_of(old) == path.name:
            old.unlink()
    return parts


def join_parts(folder: Path, name: str, target: Path) -> bool:
    """Put the newest complete file of this name together; False if the folder has none that is complete and sound."""
    groups: dict[tuple[str, str], list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if (found := PART_NAME.fullmatch(path.name)) and found["name"] == name:
            groups.setdefault((found["hash"], found["count"]), []).append(path)
    newest_first = sorted(groups.items(), key=lambda group: -max(path.stat().st_mtime for path in group[1]))
    for (digest, count), parts in newest_first:
        data = b"".join(part.read_bytes() for part in parts) if len(parts) == int(count) else b""
        if data and hashlib.sha256(data).hexdigest()[:12] == digest:
            temporary = target.with_name(target.name + ".tmp")
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            temporary.replace(target)
            return True
    return False
