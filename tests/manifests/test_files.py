"""Every file of k8s/ is part of some overlay."""

import json

import pytest
import yaml

from emoji_ldm.kubernetes.lint.rendering import name_of, parse
from tests.manifests.cached_overlays import cached_objects
from tests.manifests.render import K8S, OVERLAYS

LISTS = {"versions.yaml", "secrets.yaml", "components/network/allowed.yaml"}  # read by the check, not by kustomize
KEYS = ("resources", "components", "configurations", "crds", "openapi")


def used(place, found):
    """Every file that the kustomization in a folder leads to."""
    file = place / "kustomization.yaml"
    if file in found:
        return
    found.add(file)
    top = yaml.safe_load(file.read_text())
    for name in [name for key in KEYS for name in _listed(top.get(key))]:
        target = (place / name).resolve()
        used(target, found) if target.is_dir() else found.add(target)
    for item in [*top.get("patches", []), *top.get("replacements", [])]:
        if "path" in item:
            found.add((place / item["path"]).resolve())
    for item in top.get("configMapGenerator", []):
        found |= {
            (place / name.rpartition("=")[2]).resolve() for name in [*item.get("files", []), *item.get("envs", [])]
        }


def _listed(value):
    return [value["path"]] if isinstance(value, dict) else value or []


def test_every_file_is_reachable_from_an_overlay():
    found = set()
    for overlay in OVERLAYS:
        used((K8S / "overlays" / overlay).resolve(), found)
    files = {path.resolve() for path in K8S.rglob("*") if path.is_file() and path.suffix != ".md"}
    own = {path for path in files if path.parent == K8S / "schemas" or str(path.relative_to(K8S)) in LISTS}
    assert sorted(str(path.relative_to(K8S)) for path in files - own - found if "__pycache__" not in path.parts) == []
    assert sorted(str(path) for path in found - files) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_can_be_applied_by_the_client_too(overlay):
    """`kubectl apply` and Argo CD keep a copy of the object in an annotation; all annotations may hold 256 KiB."""
    sizes = {name_of(obj): len(json.dumps(obj, separators=(",", ":"))) for obj in cached_objects(overlay)}
    assert {name: size for name, size in sizes.items() if size > 255 * 1024} == {}


def test_every_yaml_file_can_be_read():
    for path in K8S.rglob("*.yaml"):
        assert parse(path.read_text()), path
