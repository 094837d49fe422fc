"""All objects of one overlay together, and the questions that rules ask of them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.lint.pods import ExpandedPod, pods
from emoji_ldm.kubernetes.lint.rendering import KubeObject


@dataclass(frozen=True)
class LintContext:
    """The objects of an overlay, and the lists beside it: `k8s/versions.yaml`, `k8s/secrets.yaml`, `k8s/schemas`."""

    objects: tuple[KubeObject, ...]
    overlay: str
    folder: Path

    @functools.cached_property
    def versions(self) -> dict[str, Any]:
        """The one list of versions.

        Raises:
            ConfigError: It is missing, or lacks a part.
        """
        found = read_mapping(self.folder / "versions.yaml")
        if lacking := [key for key in ("kubernetes", "ray", "images", "charts") if not found.get(key)]:
            raise ConfigError(f"{self.folder / 'versions.yaml'} lacks {', '.join(lacking)}")
        return found

    @functools.cached_property
    def secrets(self) -> dict[str, set[str]]:
        """Keys of each Secret that this overlay may name.

        Raises:
            ConfigError: The list is missing, or an entry is of another form.
        """
        path = self.folder / "secrets.yaml"
        listed = read_mapping(path)
        for name, entry in listed.items():
            if not isinstance(entry, dict) or not all(isinstance(entry.get(key), list) for key in ("keys", "overlays")):
                raise ConfigError(f"{path}: {name} needs two lists: its keys, and the overlays that have it")
        found = {name: set(entry["keys"]) for name, entry in listed.items() if self.overlay in entry["overlays"]}
        for obj in self.of_kinds("ExternalSecret"):
            spec = obj.get("spec") or {}
            name = (spec.get("target") or {}).get("name") or obj["metadata"]["name"]
            found[name] = {item.get("secretKey", "") for item in spec.get("data") or []}
        return found

    @functools.cached_property
    def by_kind(self) -> dict[str, dict[str, KubeObject]]:
        """Kind -> name -> object."""
        found: dict[str, dict[str, KubeObject]] = {}
        for obj in self.objects:
            name = (obj.get("metadata") or {}).get("name")
            found.setdefault(str(obj.get("kind")), {})[str(name)] = obj
        return found

    @functools.cached_property
    def pods(self) -> tuple[ExpandedPod, ...]:
        """Every Pod that the objects lead to."""
        return tuple(pods(self.objects))

    @functools.cached_property
    def uses_kueue(self) -> bool:
        """Whether Kueue is part of the overlay."""
        return "ClusterQueue" in self.by_kind

    def of_kinds(self, *kinds: str) -> list[KubeObject]:
        """The objects of some kinds."""
        return [obj for kind in kinds for obj in self.by_kind.get(kind, {}).values()]

    def has(self, kind: str, name: object) -> bool:
        """Whether the overlay holds an object."""
        return name in self.by_kind.get(kind, {})

    def is_chart_namespace(self, namespace: str) -> bool:
        """Whether a namespace is that of a chart."""
        return any(chart["namespace"] == namespace for chart in (self.versions.get("charts") or {}).values())

    def names(self, kind: str) -> str:
        """Names of a kind, for messages."""
        return ", ".join(sorted(self.by_kind.get(kind, {}))) or "none"


@functools.cache
def _parsed(path: Path, _stamp: int) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no mapping")
    return values


def read_mapping(path: Path) -> dict[str, Any]:
    """A list beside the overlays.

    Raises:
        ConfigError: It is not there, not YAML, or no mapping.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is missing: the check reads it beside the overlays")
    return _parsed(path, path.stat().st_mtime_ns)
