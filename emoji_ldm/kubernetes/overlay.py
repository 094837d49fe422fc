"""A rendered overlay: `up` applies its objects, `submit` takes job templates from it, and `down` deletes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.kubectl import NAMESPACE
from emoji_ldm.kubernetes.lint.rendering import KubeObject, render
from emoji_ldm.kubernetes.site import Site

SUBMIT_LABEL = "emoji-ldm/submit"  # marks RayJobs that are templates for `submit`, not applied by `up`


@dataclass(frozen=True)
class Overlay:
    """An overlay: its name, the folder of all manifests (k8s/), its objects, and the site that they are made for."""

    name: str
    folder: Path
    objects: list[KubeObject]
    site: Site | None = None
    option: str = ""  # of the command line, for the commands in messages

    @staticmethod
    def read(folder: Path, name: str, site_file: Path | None = None) -> Overlay:
        """Render an overlay, with the values of a site file if one is given, which then names the overlay.

        Raises:
            ConfigError: The folder or the overlay does not exist, kubectl is missing, kustomize fails, or the site file
                is invalid.
        """
        if not (folder / "overlays").is_dir():
            raise ConfigError(f"no manifests in {folder}: run from a clone of the project, or name it with --manifests")
        if site_file is None:
            return Overlay(name, folder, render(folder, name), option=f"--overlay {name}")
        site = Site.read(site_file)
        objects = site.move(site.fill(render(folder, site.overlay)))
        return Overlay(site.overlay, folder, objects, site, f"--site {site_file}")

    @property
    def namespace(self) -> str:
        """The namespace that it is installed in."""
        return self.site.namespace if self.site else NAMESPACE

    def of_kinds(self, *kinds: str) -> list[KubeObject]:
        """All objects of these kinds."""
        return [obj for obj in self.objects if obj["kind"] in kinds]

    @property
    def installed(self) -> list[KubeObject]:
        """The objects that are installed: all but the templates for `submit`, which would start to run."""
        return [obj for obj in self.objects if not is_submitted(obj)]

    @property
    def jobs(self) -> dict[str, KubeObject]:
        """The RayJobs that are templates for `submit`, by name."""
        return {str(obj["metadata"]["name"]): obj for obj in self.objects if is_submitted(obj)}


def is_submitted(obj: KubeObject) -> bool:
    """Whether an object is a template for `submit`, which `up` does not apply."""
    return (obj["metadata"].get("labels") or {}).get(SUBMIT_LABEL) == "true"
