"""Check the manifests of an overlay without a cluster: `check(folder, overlay)` returns what is wrong, and where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that is wrong: where it is written, which object it is about, what is wrong and how to mend it."""

    file: str  # as seen from the folder that holds k8s/, such as "k8s/base/train.yaml"
    line: int  # 1 is the first
    owner: str  # such as "RayJob/train"
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.owner}: {self.text}"


def check(folder: Path, overlay: str) -> list[Finding]:
    """All findings of one overlay of `folder` (k8s/), in the order of files and lines; [] means that all holds.

    Raises:
        ConfigError: There is no such overlay, no kubectl, or kustomize cannot render it.
    """
    from emoji_ldm.cluster.check.whole import findings  # heavy parts load when they are needed

    return findings(folder, overlay)
