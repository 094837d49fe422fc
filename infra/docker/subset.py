"""Print the part of requirements.lock that an image needs: what the project and the named extras pull in.

The lock also holds the development tools. Its `# via` notes say who needs whom, so the rest can be left out
with versions and hashes untouched:

    python infra/docker/subset.py pyproject.toml requirements.lock crawl models serve demo > runtime.lock
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PIN = re.compile(r"^([A-Za-z0-9._-]+)==", re.MULTILINE)
NOWHERE = "sys_platform == 'never'"  # the marker of what the project overrides away
SELF = "emoji-ldm (pyproject.toml)"


def normal(name: str) -> str:
    """A distribution's name as PEP 503 normalises it, without extras and version."""
    bare = re.split(r"[\[<>=!~; ]", name.strip(), maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", bare).lower()


def wanted(pyproject: str, extras: list[str]) -> set[str]:
    """Names that the project itself asks for."""
    project = tomllib.loads(pyproject)["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return {normal(line) for line in lines}


def blocks(lock: str) -> dict[str, str]:
    """The lock's entry of each package; one name may have several, under different markers."""
    starts = [(match.start(), normal(match[1])) for match in PIN.finditer(lock)]
    ends = [start for start, _ in starts[1:]] + [len(lock)]
    found: dict[str, str] = {}
    for (start, name), end in zip(starts, ends, strict=True):
        if NOWHERE in lock[start:end].splitlines()[0]:
            continue
        found[name] = found.get(name, "") + lock[start:end]
    return found


def needed_by(block: str) -> set[str]:
    """Who needs a package, as its `# via` note says."""
    note = block[block.index("# via") :].replace("# via", "#", 1)
    names = {line.strip().lstrip("#").strip() for line in note.splitlines()}
    return {normal(name) for name in names if name and name != SELF}


def subset(lock: str, roots: set[str]) -> str:
    """The entries that the roots reach."""
    entries = blocks(lock)
    parents = {name: needed_by(block) for name, block in entries.items()}
    kept = roots & entries.keys()
    while more := {name for name in entries.keys() - kept if parents[name] & kept}:
        kept |= more
    return "".join(entries[name] for name in sorted(kept))


if __name__ == "__main__":
    pyproject_path, lock_path, *chosen = sys.argv[1:]
    sys.stdout.write(subset(Path(lock_path).read_text(), wanted(Path(pyproject_path).read_text(), chosen)))
