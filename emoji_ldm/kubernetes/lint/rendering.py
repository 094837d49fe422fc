"""Renders overlays with kustomize, once per process, and again only if a file has changed."""

from __future__ import annotations

import copy
import functools
import subprocess
from pathlib import Path
from typing import Any

import yaml

from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.lint.kubectl_binary import render_command

TIMEOUT_S = 60

KubeObject = dict[str, Any]  # one Kubernetes object


def overlays(folder: Path) -> list[str]:
    """Names of the overlays in `folder` (k8s/).

    Raises:
        ConfigError: The folder contains none.
    """
    names = sorted(path.parent.name for path in (folder / "overlays").glob("*/kustomization.yaml"))
    if not names:
        raise ConfigError(
            f"{folder} contains no overlays: run from a clone of the project, or name it with --manifests"
        )
    return names


def render(folder: Path, overlay: str) -> list[KubeObject]:
    """The objects of one overlay, as a copy that the caller may change.

    Raises:
        ConfigError: The overlay does not exist, kubectl is missing, or kustomize cannot render it.
    """
    known = overlays(folder)
    if overlay not in known:
        raise ConfigError(f"no overlay {overlay!r} in {folder / 'overlays'} (there are: {', '.join(known)})")
    path = (folder / "overlays" / overlay).resolve()
    # Callers edit the objects, such as `submit` the name of a job, and must not change what the cache holds.
    return copy.deepcopy(_rendered(path, folder_fingerprint(folder)))


def kustomize(folder: Path) -> str:
    """The output of kustomize for a folder, a stream of YAML documents.

    Raises:
        ConfigError: kustomize failed; the message is its own, in one line.
    """
    command = [*render_command(), str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise ConfigError(f"kustomize cannot render {folder.name} within {TIMEOUT_S} s") from None
    if done.returncode:
        # Messages of kustomize span many lines, and an error of this project is one line.
        words = " ".join(done.stderr.removeprefix("error: ").split())
        raise ConfigError(f"kustomize cannot render {folder.name}: {words}")
    return done.stdout


def parse(text: str) -> list[KubeObject]:
    """The objects of a stream of YAML documents."""
    return [_without_nulls(obj) for obj in yaml.load_all(text, yaml.CSafeLoader) if obj]


def _without_nulls(value: Any) -> Any:
    """A value without null fields, which the API server treats as absent."""
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def name_of(obj: KubeObject) -> str:
    """Kind and name of an object for messages, such as `RayJob/train`."""
    return f"{obj.get('kind')}/{(obj.get('metadata') or {}).get('name')}"


def folder_fingerprint(folder: Path) -> int:
    """A number that changes whenever a file below the folder does."""
    # Any file may be a base or a patch of the overlay, so all of them count. Times and sizes suffice and are much
    # cheaper to read than contents.
    stats = ((str(path), path.stat()) for path in sorted(folder.rglob("*")) if path.is_file())
    return hash(tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats))


@functools.lru_cache(maxsize=32)
# A run of kustomize is a process of its own and the slowest part of a check, and one command may need the same overlay
# several times.
def _rendered(folder: Path, _fingerprint: int) -> list[KubeObject]:
    return parse(kustomize(folder))
