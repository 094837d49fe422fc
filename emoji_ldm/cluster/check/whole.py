"""Everything that is checked of one overlay, gathered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from emoji_ldm.cluster.check import Finding
from emoji_ldm.cluster.check.pods import Path as Steps
from emoji_ldm.cluster.check.rendering import Thing, name_of, render
from emoji_ldm.cluster.check.schema import schema_problems

Problem = tuple[Thing, Steps, str]


def findings(folder: Path, overlay: str) -> list[Finding]:
    """All findings of one overlay, sorted; see `emoji_ldm.cluster.check.check`."""
    things = render(folder, overlay)
    versions = yaml.safe_load((folder / "versions.yaml").read_text(encoding="utf-8"))
    place = f"{folder.name}/overlays/{overlay}/kustomization.yaml"
    found = list(_problems(things, folder, str(versions["kubernetes"])))
    return sorted(Finding(place, 1, name_of(thing), _told(path, text)) for thing, path, text in found)


def _problems(things: list[Thing], folder: Path, kubernetes: str) -> Iterator[Problem]:
    for thing in things:
        for path, text in schema_problems(thing, folder / "schemas", kubernetes):
            yield thing, path, text


def _told(path: Steps, text: str) -> str:
    return f"{'.'.join(map(str, path))}: {text}" if path else text
