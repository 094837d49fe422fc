"""The pieces of YAML that an overlay is made of, in the order in which kustomize applies them."""

import pytest

from emoji_ldm.kubernetes.lint.kustomize_sources import ImageOverride, documents, files_of, sources

KUSTOMIZATION = """\
images:
  - {name: app, newName: registry/app}
replacements:
  - source: {kind: Deployment, name: web}
    targets:
      - select: {kind: ConfigMap}
        fieldPaths: ['data.a\\.b', 'spec.containers.[name=x.y].image']
patches:
  - path: web.yaml
  - target: {kind: Deployment}
    patch: |
      - op: add
        path: /metadata/annotations/a~1b~0c
        value: d
configMapGenerator:
  - name: settings
    files: [settings.yaml, other.yaml=inner/more.yaml]
resources: [base]
"""
FILES = {
    "kustomization.yaml": KUSTOMIZATION,
    "web.yaml": "kind: Deployment\nmetadata: {name: web}\nspec: {replicas: 2}\n",
    "base/kustomization.yaml": "resources: [all.yaml]\n",
    "base/all.yaml": "kind: List\nitems:\n- {kind: Deployment, metadata: {name: web}}\n"
                     "- {kind: Service, metadata: {name: w.b}}\n",
}  # fmt: skip


@pytest.fixture
def pieces(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return list(sources(tmp_path))


def test_pieces_come_in_the_order_of_kustomize_whatever_their_order_in_the_file(pieces, tmp_path):
    files = [str(one.file.relative_to(tmp_path)) for one in pieces]
    top = "kustomization.yaml"
    assert files == ["base/all.yaml", "base/all.yaml", top, "web.yaml", top, top, top, top]
    assert pieces[-1] == ImageOverride(tmp_path / top, 2, frozenset({"app", "registry/app"}))


def test_the_items_of_a_list_are_pieces_of_their_own_and_their_names_are_literal(pieces):
    web, service = pieces[:2]
    assert web.applies_to("Deployment", "web") and not web.applies_to("Service", "w.b")
    assert service.applies_to("Service", "w.b") and not service.applies_to("Service", "wxb")


def test_a_generated_config_map_is_known_by_its_name_with_and_without_a_hash(pieces, tmp_path):
    generated = pieces[2]
    assert generated.values == {"settings.yaml": tmp_path / "settings.yaml", "other.yaml": tmp_path / "inner/more.yaml"}
    assert files_of(generated) == [tmp_path / "kustomization.yaml", *generated.values.values()]
    assert generated.applies_to("ConfigMap", "settings") and generated.applies_to("ConfigMap", "settings-0123456789")
    assert not generated.applies_to("ConfigMap", "settings-other")


def test_a_patch_within_the_file_keeps_its_line_and_its_escaped_path(pieces):
    merged, operation = pieces[3:5]
    assert merged.applies_to("Deployment", "web") and not merged.applies_to("Deployment", "other")
    assert operation.path == ("metadata", "annotations", "a/b~c")
    assert operation.applies_to("Deployment", "anything")
    assert KUSTOMIZATION.splitlines()[operation.node.start_mark.line].strip() == "value: d"


def test_a_replacement_knows_its_origin_and_splits_paths_at_plain_dots_only(pieces):
    paths = [one.path for one in pieces[5:7]]
    assert paths == [("data", "a.b"), ("spec", "containers", "[name=x.y]", "image")]
    assert all(one.origin == ("Deployment", "web", ("metadata", "name")) for one in pieces[5:7])


def test_a_file_that_cannot_be_read_has_no_documents(tmp_path):
    (tmp_path / "broken.yaml").write_text("a: [b")
    assert documents(tmp_path / "broken.yaml") == documents(tmp_path / "gone.yaml") == []
