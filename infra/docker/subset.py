"""Prints the part of requirements.lock that an image needs: the dependencies of the project and of the named extras.

The lock also contains development tools. Its `# via` comments record which package requires which, so that the others
can be left out without changing versions or hashes:

    python infra/docker/subset.py pyproject.toml requirements.lock crawl models serve evaluate demo > runtime.lock
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PIN = re.compile(r"^([A-Za-z0-9._-]+)==", re.MULTILINE)
EXCLUDED_MARKER = "sys_platform == 'never'"  # marks packages that the project overrides away
PROJECT = "emoji-ldm (pyproject.toml)"


def normalize(name: str) -> str:
    """The name of a distribution normalized as in PEP 503, without extras and version."""
    bare = re.split(r"[\[<>=!~; ]", name.strip(), maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", bare).lower()


def required(pyproject: str, extras: list[str]) -> set[str]:
    """The names of the project's direct dependencies."""
    project = tomllib.loads(pyproject)["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return {normalize(line) for line in lines}


def blocks(lock: str) -> dict[str, str]:
    """The entry of each package in the lock; several entries with different markers are joined."""
    starts = [(match.start(), normalize(match[1])) for match in PIN.finditer(lock)]
    ends = [start for start, _ in starts[1:]] + [len(lock)]
    found: dict[str, str] = {}
    for (start, name), end in zip(starts, ends, strict=True):
        if EXCLUDED_MARKER in lock[start:end].splitlines()[0]:
            continue
        found[name] = found.get(name, "") + lock[start:end]
    return found


def required_by(block: str) -> set[str]:
    """The packages that require a package, from its `# via` comment."""
    note = block[block.index("# via") :].replace("# via", "#", 1)
    names = {line.strip().lstrip("#").strip() for line in note.splitlines()}
    return {normalize(name) for name in names if name and name != PROJECT}


def subset(lock: str, roots: set[str]) -> str:
    """The entries that are reachable from the roots."""
    entries = blocks(lock)
    parents = {name: required_by(block) for name, block in entries.items()}
    reachable = roots & entries.keys()
    while more := {name for name in entries.keys() - reachable if parents[name] & reachable}:
        reachable |= more
    return "".join(entries[name] for name in sorted(reachable))


if __name__ == "__main__":
    pyproject_path, lock_path, *chosen = sys.argv[1:]
    sys.stdout.write(subset(Path(lock_path).read_text(), required(Path(pyproject_path).read_text(), chosen)))
