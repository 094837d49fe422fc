"""Overlays are rendered by kustomize; what cannot be rendered is reported in one line."""

import pytest

from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.lint.rendering import render
from tests.manifests.render import K8S


def test_an_unknown_overlay_names_those_that_exist():
    with pytest.raises(ConfigError, match=r"no overlay 'prod' in .*overlays \(there are: dev, eks, "):
        render(K8S, "prod")


def test_a_folder_without_overlays_is_reported_with_a_remedy(tmp_path):
    with pytest.raises(
        ConfigError, match="contains no overlays: run from a clone of the project, or name it with --manifests"
    ):
        render(tmp_path, "dev")


def test_a_broken_kustomization_is_reported_in_one_line(tmp_path):
    place = tmp_path / "overlays" / "dev"
    place.mkdir(parents=True)
    (place / "kustomization.yaml").write_text("resources: [gone.yaml]\n")
    with pytest.raises(ConfigError, match=r"kustomize cannot render dev: .*gone\.yaml") as raised:
        render(tmp_path, "dev")
    assert "\n" not in str(raised.value)


def test_a_patch_without_a_target_cannot_be_rendered(tmp_path):
    place = tmp_path / "overlays" / "dev"
    place.mkdir(parents=True)
    (place / "one.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n")
    patch = "{target: {kind: ConfigMap}, patch: '[{op: replace, path: /data/b, value: c}]'}"
    (place / "kustomization.yaml").write_text(f"resources: [one.yaml]\npatches: [{patch}]\n")
    with pytest.raises(ConfigError, match="kustomize cannot render dev"):
        render(tmp_path, "dev")


def test_a_changed_file_is_rendered_anew(tmp_path):
    place = tmp_path / "overlays" / "dev"
    place.mkdir(parents=True)
    (place / "kustomization.yaml").write_text("resources: [one.yaml]\n")
    for value in ("one", "three"):
        (place / "one.yaml").write_text(f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {value}}}\n")
        assert render(tmp_path, "dev")[0]["metadata"]["name"] == value
