"""Checkpoints in the store: folders that are complete only once their manifest, written last, exists.

    checkpoints/<run>/<kind>/step-00000400-<attempt>/...       files
    checkpoints/<run>/<kind>/step-00000400-<attempt>/COMPLETE  {"files": {path: size}, "sha256": {path: hex}, "step"}
    checkpoints/<run>/<kind>/LATEST                            name of the newest one

`kind` is `autoencoder` or `unet`. `<attempt>` is random per start of a training, so a process that was presumed dead
can never write into the checkpoint of its successor. `LATEST` is not needed to find a checkpoint: it records that there
was one, so that a run whose checkpoints somebody deleted is not started again from nothing without notice.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs

from emoji_ldm.dataset import checkpoint_aliases
from emoji_ldm.errors import ModelError, UntrainedError
from emoji_ldm.store import Store

# The writing of a checkpoint takes minutes, and a process may die in any of them. So a folder counts for nothing until
# its manifest exists: files first, manifest second, LATEST last. A crash before the manifest leaves a folder that
# readers ignore and pruning deletes; a crash between the two leaves a complete checkpoint that readers find without
# LATEST.
MANIFEST_FILE, LATEST_FILE = "COMPLETE", "LATEST"
FOLDER_PATTERN = re.compile(r"step-(\d{8})-[0-9a-f]{8}")
# A folder without manifest may be one that somebody is writing. After this long without a new file nobody is.
ABANDONED_S = 900.0


class DamagedCheckpointError(ModelError):
    """A checkpoint lacks files, or holds others than were written."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    store: Store
    path: str  # inside the store, as checkpoints/<run>/<kind>/step-...
    step: int

    @property
    def uri(self) -> str:
        """URI of the checkpoint."""
        return f"{self.store.uri}/{self.path}"

    def manifest(self) -> dict[str, Any]:
        """The manifest: files with sizes, step, and what the trainer added (config, table versions, ...).

        Raises:
            DamagedCheckpointError: The manifest cannot be read.
        """
        try:
            manifest = json.loads(self.store.read(self.path, MANIFEST_FILE))
        except ValueError:
            manifest = None
        # A manifest that was cut off is damage and not a missing checkpoint: starting over in silence would throw away
        # the training that LATEST records.
        if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict) or "step" not in manifest:
            raise self.damaged(f"its manifest {MANIFEST_FILE} cannot be read")
        return manifest

    def check(self) -> dict[str, Any]:
        """The manifest, if all files exist with their sizes; else DamagedCheckpointError."""
        # Sizes catch truncated and missing files at the price of one listing. Hashing gigabytes at every start would
        # take minutes, so hashes are checked on download only.
        manifest, found = self.manifest(), file_sizes(self.store, self.path)
        for name, size in manifest["files"].items():
            if found.get(name) != size:
                reason = f"has {found[name]} bytes instead of {size}" if name in found else "is missing"
                raise self.damaged(f"{name} {reason}")
        return manifest

    def damaged(self, why: str) -> ModelError:
        """The error for a damaged checkpoint."""
        return DamagedCheckpointError(f"checkpoint {self.uri} is damaged: {why}")

    @contextmanager
    def suggest_alternative(self) -> Iterator[None]:
        """Within it, the error of a damaged checkpoint names another one to use; for readers that do not train on."""
        try:
            yield
        except DamagedCheckpointError as error:
            raise ModelError(f"{error}; {self._alternative()}") from None

    def _alternative(self) -> str:
        run, kind = self.path.split("/")[1:3] if self.path.startswith("checkpoints/") else ("", "")
        others = (
            other for other in complete_checkpoints(self.store, run, kind)[::-1] if run and other.path != self.path
        )
        if other := next((other for other in others if other._is_complete()), None):
            return f"name the intact one of step {other.step} instead, {other.uri}, or train on, which skips this one"
        return "the run has no intact one; restore its files, or name a checkpoint of another run"

    def _is_complete(self) -> bool:
        """Whether all files exist with their sizes."""
        try:
            self.check()
        except ModelError:
            return False
        return True

    def fetch(self, cache: Path, part: str = "") -> Path:
        """A local folder with the checkpoint's files below `part`: the checkpoint itself, or a cached copy of it.

        Args:
            cache: Folder for copies from a store that is not local.
            part: Prefix of the paths to fetch, such as `pipeline`; empty fetches all.

        Raises:
            ModelError: A file of the manifest is missing, has another size, or arrived with other bytes.
        """
        with self.suggest_alternative():
            return self._fetch(cache, part)

    def _fetch(self, cache: Path, part: str) -> Path:
        manifest = self.manifest()
        # A local store is its own cache: copying from disk to disk would gain nothing.
        folder = Path(self.store.path(self.path)) if not self.store.is_s3 else cache / self.path
        for name, size in manifest["files"].items():
            if not name.startswith(part):
                continue
            local = folder / name
            # A copy of the right size is trusted without hashing it again. Its path contains the random attempt, so no
            # other checkpoint can have left it there, and it got its name only after its hash was checked.
            if self.store.is_s3 and not (local.is_file() and local.stat().st_size == size):
                self._download(name, local, manifest.get("sha256", {}).get(name, ""))
            if not local.is_file() or local.stat().st_size != size:
                raise self.damaged(f"{name} is not {size} bytes")
        return folder / part if part else folder

    def _download(self, name: str, local: Path, sha256: str) -> None:
        data = self.store.read(self.path, name)
        # Uploads to S3 are not signed (see `s3.put_parts`), so this hash is what detects bytes that were changed on the
        # way.
        if sha256 and hashlib.sha256(data).hexdigest() != sha256:
            raise self.damaged(f"{name} has another SHA-256 than was written")
        local.parent.mkdir(parents=True, exist_ok=True)
        # Other processes share the cache: they must never see half a file under its final name.
        temporary = local.with_name(f".{local.name}.{uuid.uuid4().hex[:8]}")
        temporary.write_bytes(data)
        temporary.replace(local)


def file_sizes(store: Store, path: str) -> dict[str, int]:
    """{path below the folder: bytes} of all files."""
    root = store.path(path)
    return {info.path[len(root) :].lstrip("/"): info.size for info in _files(store, path)}


def folder_name(step: int, attempt: str = "") -> str:
    """Folder name of a checkpoint after `step` steps; `attempt` is 8 hex digits, random if empty."""
    return f"step-{step:08d}-{attempt or new_attempt()}"


def new_attempt() -> str:
    """8 random hex digits that mark the checkpoints of one start of a training."""
    return uuid.uuid4().hex[:8]


def publish_checkpoint(
    store: Store, path: str, facts: Mapping[str, Any], sha256: Mapping[str, str] | None = None
) -> Checkpoint:
    """Write the manifest of a folder whose files are all written, which makes it a checkpoint, and update `LATEST`.

    Args:
        store: The store that holds the folder.
        path: The folder, as `checkpoints/<run>/<kind>/<folder_name(step)>`.
        facts: Further fields of the manifest; `step` is required.
        sha256: {path in the folder: hex digest}, which downloads are checked against.
    """
    # Names and sizes come from the store and not from the process that publishes: every worker has written files of its
    # own, and only the store knows them all.
    files = {name: size for name, size in file_sizes(store, path).items() if name != MANIFEST_FILE}
    # The order is the protocol (see the top of this module): the manifest makes the checkpoint exist, LATEST records
    # it.
    store.write(json.dumps({**facts, "files": files, "sha256": dict(sha256 or {})}).encode(), path, MANIFEST_FILE)
    folder, _, name = path.rpartition("/")
    store.write(name.encode(), folder, LATEST_FILE)
    return Checkpoint(store, path, int(facts["step"]))


def latest_name(store: Store, run: str, kind: str) -> str:
    """Name of the checkpoint that was published last, even if it was deleted since; empty if there never was one."""
    folder = ("checkpoints", run, kind)
    return store.read(*folder, LATEST_FILE).decode() if store.exists(*folder, LATEST_FILE) else ""


def complete_checkpoints(store: Store, run: str, kind: str) -> list[Checkpoint]:
    """Complete checkpoints of a run by step; of equal steps, the one that was published last comes last."""
    found = [checkpoint for checkpoint in _folders(store, run, kind) if store.exists(checkpoint.path, MANIFEST_FILE)]
    latest = latest_name(store, run, kind)
    return sorted(found, key=lambda checkpoint: (checkpoint.step, checkpoint.path.endswith(f"/{latest}")))


def unfinished_folders(store: Store, run: str, kind: str, *, after: int) -> list[str]:
    """Names of checkpoint folders of more than `after` steps that never got their manifest, by step."""
    return sorted(
        checkpoint.path.rpartition("/")[2]
        for checkpoint in _folders(store, run, kind)
        if checkpoint.step > after and not store.exists(checkpoint.path, MANIFEST_FILE)
    )


def newest_checkpoint(store: Store, run: str, kind: str) -> Checkpoint:
    """The newest complete checkpoint; UntrainedError, with the command that makes one, if there is none."""
    found = complete_checkpoints(store, run, kind)
    if not found:
        command = "emoji-ldm train autoencoder" if kind == "autoencoder" else "emoji-ldm train"
        raise UntrainedError(f"run {run!r} in {store.uri} has no {kind} checkpoint; make one with: {command} run={run}")
    return found[-1]


def invalidate(checkpoint: Checkpoint) -> None:
    """Make a damaged checkpoint incomplete by deleting its manifest; pruning deletes its files later."""
    checkpoint.store.remove(checkpoint.path, MANIFEST_FILE)


def prune_checkpoints(store: Store, run: str, kind: str, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints.

    The checkpoint that was published last is always kept, even if others have a higher step (a run that resumed from an
    older step), and so are checkpoints with an alias. Folders that died attempts left without a manifest go as well,
    unless another attempt may still be writing one. A manifest is deleted before its files, so that a deletion that is
    interrupted leaves an incomplete checkpoint, not a damaged one.
    """
    latest = f"checkpoints/{run}/{kind}/{latest_name(store, run, kind)}"
    # Python's sort is stable: the order by step stays, and the checkpoint that was published last moves to the end,
    # where `[-keep:]` cannot miss it.
    complete = sorted(complete_checkpoints(store, run, kind), key=lambda checkpoint: checkpoint.path == latest)
    kept = {checkpoint.path for checkpoint in complete[-keep:]} | set(checkpoint_aliases.aliased_paths(store).values())
    complete_paths = {checkpoint.path for checkpoint in complete}
    for checkpoint in _folders(store, run, kind):
        # An incomplete folder with a higher step than any complete one may be the checkpoint that is being written
        # right now, so it stays.
        old = checkpoint.path not in kept and checkpoint.step <= complete[-1].step
        # Folder names end in the attempt. Folders of the attempt that publishes now are written by nobody else, so they
        # need not age before they are deleted.
        own = checkpoint.path[-8:] == latest[-8:]
        if old and (own or checkpoint.path in complete_paths or _is_abandoned(store, checkpoint.path)):
            # Without the manifest the folder is no checkpoint any more, so a crash during the deletion leaves nothing
            # that looks complete.
            store.remove(checkpoint.path, MANIFEST_FILE)
            store.delete(checkpoint.path)


def _is_abandoned(store: Store, path: str) -> bool:
    infos = _files(store, path)
    return time.time() - max((info.mtime_ns for info in infos), default=0) / 1e9 > ABANDONED_S


def _folders(store: Store, run: str, kind: str) -> list[Checkpoint]:
    matches = [match for name in store.list("checkpoints", run, kind) if (match := FOLDER_PATTERN.fullmatch(name))]
    return [Checkpoint(store, f"checkpoints/{run}/{kind}/{match[0]}", int(match[1])) for match in matches]


def _files(store: Store, path: str) -> list[fs.FileInfo]:
    with store.io_errors(f"list {path}"):
        infos = store.filesystem.get_file_info(fs.FileSelector(store.path(path), allow_not_found=True, recursive=True))
    return [info for info in infos if info.is_file]
