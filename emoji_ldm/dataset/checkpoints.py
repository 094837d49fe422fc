"""Checkpoints in the store: folders that count only once their manifest, written last, is there.

    checkpoints/<run>/<kind>/step-00000400-<attempt>/...     files
    checkpoints/<run>/<kind>/step-00000400-<attempt>/COMPLETE  {"files": {path: size}, "step": ..., ...}

`kind` is `autoencoder` or `unet`. An attempt has its own folder, so a process that was
thought dead can never write into the checkpoint of its successor.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emoji_ldm.errors import ModelError
from emoji_ldm.store import Store

MANIFEST = "COMPLETE"
FOLDER = re.compile(r"step-(\d{8})-[0-9a-f]{8}")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    store: Store
    path: str  # inside the store, as checkpoints/<run>/<kind>/step-...
    step: int

    @property
    def uri(self) -> str:
        """Where the checkpoint lies."""
        return f"{self.store.uri}/{self.path}"

    def manifest(self) -> dict[str, Any]:
        """Its manifest: files with sizes, step, and what the trainer added (config, table versions, ...)."""
        return dict(json.loads(self.store.read(self.path, MANIFEST)))

    def fetch(self, cache: Path, part: str = "") -> Path:
        """A local folder with the checkpoint's files (below `part`): itself for a local store, else a cached copy.

        Raises:
            ModelError: A file of the manifest is missing or has another size.
        """
        sizes = {name: size for name, size in self.manifest()["files"].items() if name.startswith(part)}
        folder = Path(self.store.path(self.path)) if not self.store.is_s3 else cache / self.path
        for name, size in sizes.items():
            local = folder / name
            if self.store.is_s3 and not (local.is_file() and local.stat().st_size == size):
                local.parent.mkdir(parents=True, exist_ok=True)
                temporary = local.with_name(f".{local.name}.{uuid.uuid4().hex[:8]}")
                temporary.write_bytes(self.store.read(self.path, name))
                temporary.replace(local)
            if not local.is_file() or local.stat().st_size != size:
                raise ModelError(f"checkpoint {self.uri} is damaged: {name} is not {size} bytes; use an earlier one")
        return folder / part if part else folder


def folder_name(step: int) -> str:
    """A new folder name for a checkpoint after `step` steps."""
    return f"step-{step:08d}-{uuid.uuid4().hex[:8]}"


def publish(store: Store, path: str, facts: Mapping[str, Any]) -> Checkpoint:
    """Declare a folder whose files are all written complete, by writing its manifest.

    Args:
        store: Where the folder lies.
        path: The folder, as `checkpoints/<run>/<kind>/<folder_name(step)>`.
        facts: Goes into the manifest; must hold `step`.
    """
    names = store.list(path, recursive=True)
    with store.reaching(f"read checkpoint {path}"):
        infos = {name: store.filesystem.get_file_info(store.path(path, name)) for name in names}
    files = {name: info.size for name, info in infos.items() if info.is_file and name != MANIFEST}
    store.write(json.dumps({**facts, "files": files}).encode(), path, MANIFEST)
    return Checkpoint(store, path, int(facts["step"]))


def listing(store: Store, run: str, kind: str) -> list[Checkpoint]:
    """Complete checkpoints of a run, oldest first."""
    found = []
    for name in store.list("checkpoints", run, kind):
        match = FOLDER.fullmatch(name)
        path = f"checkpoints/{run}/{kind}/{name}"
        if match and store.exists(path, MANIFEST):
            found.append(Checkpoint(store, path, int(match.group(1))))
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def newest(store: Store, run: str, kind: str) -> Checkpoint:
    """The newest complete checkpoint; ModelError if there is none, naming the command that makes one."""
    found = listing(store, run, kind)
    if not found:
        command = "emoji-ldm train autoencoder" if kind == "autoencoder" else "emoji-ldm train"
        raise ModelError(f"run {run!r} in {store.uri} has no {kind} checkpoint; make one with: {command} run={run}")
    return found[-1]


def prune(store: Store, run: str, kind: str, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, manifest first so that none is ever half there."""
    for checkpoint in listing(store, run, kind)[:-keep]:
        store.remove(checkpoint.path, MANIFEST)
        store.delete(checkpoint.path)
