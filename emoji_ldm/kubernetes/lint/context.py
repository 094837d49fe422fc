"""The context of a check: all objects of one overlay with look-ups for rules, and the lists beside the overlays."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.lint.pods import ExpandedPod, pods
from emoji_ldm.kubernetes.lint.rendering import KubeObject

POOL, SPOT = "emoji-ldm/pool", "emoji-ldm/spot"  # a label of nodes, and a taint


@dataclass(frozen=True)
class LintContext:
    """The objects of an overlay, and the folder with `versions.yaml`, `secrets.yaml` and `schemas/` (k8s/)."""

    objects: tuple[KubeObject, ...]
    overlay: str
    folder: Path
    allowed: frozenset[str] = frozenset()  # names of rules that this site breaks on purpose

    @functools.cached_property
    def versions(self) -> dict[str, Any]:
        """The pinned versions of Kubernetes, Ray, images and charts.

        Raises:
            ConfigError: The file is missing, or lacks a section.
        """
        found = read_mapping(self.folder / "versions.yaml")
        # Every rule that reads a version relies on these sections, so a missing one is reported once and by name.
        if lacking := [key for key in ("kubernetes", "ray", "images", "charts") if not found.get(key)]:
            raise ConfigError(f"{self.folder / 'versions.yaml'} lacks {', '.join(lacking)}")
        return found

    @functools.cached_property
    def secrets(self) -> dict[str, set[str]]:
        """The keys of each Secret that this overlay may refer to, by name.

        Raises:
            ConfigError: The file is missing, or an entry is invalid.
        """
        path = self.folder / "secrets.yaml"
        listed = read_mapping(path)
        for name, entry in listed.items():
            if not isinstance(entry, dict) or not all(isinstance(entry.get(key), list) for key in ("keys", "overlays")):
                raise ConfigError(f"{path}: {name} needs two lists: its keys, and the overlays that use it")
        found = {name: set(entry["keys"]) for name, entry in listed.items() if self.overlay in entry["overlays"]}
        # An ExternalSecret makes the operator create a Secret with these keys, so that nobody has to declare it.
        for obj in self.of_kinds("ExternalSecret"):
            spec = obj.get("spec") or {}
            name = (spec.get("target") or {}).get("name") or obj["metadata"]["name"]
            # The keys of an ExternalSecret are those that it fetches, whatever secrets.yaml says of a Secret of the
            # same name.
            found[name] = {item.get("secretKey", "") for item in spec.get("data") or []}
        return found

    @functools.cached_property
    def by_kind(self) -> dict[str, dict[str, KubeObject]]:
        """Every object by kind, then by name."""
        found: dict[str, dict[str, KubeObject]] = {}
        for obj in self.objects:
            name = (obj.get("metadata") or {}).get("name")
            found.setdefault(str(obj.get("kind")), {})[str(name)] = obj
        return found

    @functools.cached_property
    def pods(self) -> tuple[ExpandedPod, ...]:
        """Every Pod that the objects result in."""
        return tuple(pods(self.objects))

    @functools.cached_property
    def pools(self) -> frozenset[str]:
        """The node pools: those of Kueue's flavors or, without any, of Karpenter's node pools."""
        flavors = [(obj.get("spec") or {}).get("nodeLabels") for obj in self.of_kinds("ResourceFlavor")]
        nodes = [(((obj.get("spec") or {}).get("template") or {}).get("metadata") or {}).get("labels")
                 for obj in self.of_kinds("NodePool")]  # fmt: skip
        found = [labels for labels in (flavors or nodes) if labels]
        return frozenset(str(labels[POOL]) for labels in found if POOL in labels)

    @functools.cached_property
    def spot_pools(self) -> frozenset[str]:
        """The pools whose nodes carry the taint of spot nodes."""
        flavors = [obj.get("spec") or {} for obj in self.of_kinds("ResourceFlavor")]
        nodes = [(obj.get("spec") or {}).get("template") or {} for obj in self.of_kinds("NodePool")]
        found = [(one.get("nodeLabels"), one.get("nodeTaints")) for one in flavors]
        found += [((one.get("metadata") or {}).get("labels"), (one.get("spec") or {}).get("taints")) for one in nodes]
        return frozenset(str(labels[POOL]) for labels, taints in found
                         if labels and POOL in labels and any(one["key"] == SPOT for one in taints or []))  # fmt: skip

    @functools.cached_property
    def uses_kueue(self) -> bool:
        """Whether Kueue admits the jobs of this overlay."""
        return "ClusterQueue" in self.by_kind

    def of_kinds(self, *kinds: str) -> list[KubeObject]:
        """All objects of some kinds."""
        return [obj for kind in kinds for obj in self.by_kind.get(kind, {}).values()]

    def has(self, kind: str, name: object) -> bool:
        """Whether the overlay contains an object."""
        return name in self.by_kind.get(kind, {})

    def is_chart_namespace(self, namespace: str) -> bool:
        """Whether a namespace belongs to a Helm chart, whose objects are not part of the overlay."""
        # A chart creates its namespace when it is installed, which is before the overlay is applied.
        return any(chart["namespace"] == namespace for chart in (self.versions.get("charts") or {}).values())

    def names(self, kind: str) -> str:
        """The names of all objects of a kind, for messages."""
        return ", ".join(sorted(self.by_kind.get(kind, {}))) or "none"


@functools.cache
# The time of the last change is part of the cached key, so that an edited file is read anew in a long-lived process.
def _parsed(path: Path, _mtime_ns: int) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is not a mapping")
    return values


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML file beside the overlays, parsed once per version of the file.

    Raises:
        ConfigError: It does not exist, is not YAML, or is not a mapping.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is missing: the check reads it beside the overlays")
    return _parsed(path, path.stat().st_mtime_ns)
