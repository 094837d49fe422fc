"""An overlay as kustomize renders it: what `up` applies, `submit` takes its jobs from and `down` takes away."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.kubectl import KubeObject

SUBMIT_LABEL = "emoji-ldm/submit"  # the label of jobs that `submit` creates, one by one


@dataclass(frozen=True)
class Overlay:
    """Its name, the folder of all manifests (k8s/), and its objects."""

    name: str
    folder: Path
    objects: list[KubeObject]

    @staticmethod
    def read(folder: Path, name: str) -> Overlay:
        """Render it.

        Raises:
            ConfigError: There are no manifests, no such overlay, no kubectl, or kustomize cannot render it.
        """
        if not (folder / "overlays").is_dir():
            raise ConfigError(f"no manifests in {folder}: run from a clone of the project, or name it with --manifests")
        from emoji_ldm.kubernetes.lint.rendering import render

        return Overlay(name, folder, render(folder, name))

    def of_kinds(self, *kinds: str) -> list[KubeObject]:
        """Its objects of these kinds."""
        return [obj for obj in self.objects if obj["kind"] in kinds]

    @property
    def jobs(self) -> dict[str, KubeObject]:
        """Name -> RayJob of each stage that is submitted, not applied."""
        return {str(obj["metadata"]["name"]): obj for obj in self.objects if is_submitted(obj)}


def is_submitted(obj: KubeObject) -> bool:
    """Whether it is a job that `submit` creates and `up` leaves alone."""
    return (obj["metadata"].get("labels") or {}).get(SUBMIT_LABEL) == "true"
