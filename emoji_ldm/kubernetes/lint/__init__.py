"""Check the manifests of an overlay without a cluster: `check(folder, overlay)` returns what is wrong, and where."""

from __future__ import annotations

from pathlib import Path

from emoji_ldm.kubernetes.lint.finding import Finding

__all__ = ["Finding", "check"]


def check(folder: Path, overlay: str) -> list[Finding]:
    """All findings of one overlay of `folder` (k8s/), in the order of files and lines; [] means that all holds.

    Raises:
        ConfigError: There is no such overlay, no kubectl, or kustomize cannot render it.
    """
    from emoji_ldm.kubernetes.lint.runner import findings  # heavy parts load when they are needed

    return findings(folder, overlay)
