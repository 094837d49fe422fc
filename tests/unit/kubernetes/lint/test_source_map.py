"""The line that a finding names: where in the sources of an overlay the value was written last."""

import pytest

from emoji_ldm.kubernetes.lint.rendering import render
from emoji_ldm.kubernetes.lint.source_map import SourceMap, relative_file

FILES = {
    "base/kustomization.yaml": "resources: [all.yaml]\nimages:\n  - {name: app, newTag: v1}\n",
    "base/all.yaml": """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  template:
    spec:
      containers:
        - name: side
          image: side:v1
        - name: app
          image: app
          workingDir: /base
---
apiVersion: v1
kind: ConfigMap
metadata: {name: copy}
data: {from: nowhere}
""",
    "overlays/dev/kustomization.yaml": """\
resources: [../../base]
components: [part]
configMapGenerator:
  - name: settings
    files: [settings.yaml]
replacements:
  - source: {kind: Deployment, name: web, fieldPath: spec.strategy.type}
    targets:
      - select: {kind: ConfigMap, name: copy}
        fieldPaths: [data.from]
patches:
  - target: {kind: Deployment}
    patch: |
      - op: add
        path: /spec/template/spec/containers/0/env
        value:
          - name: A
            value: b
""",
    "overlays/dev/settings.yaml": "run: a\ntrain:\n  lr: 1\n",
    "overlays/dev/part/kustomization.yaml": """\
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
patches: [{path: web.yaml}]
""",
    "overlays/dev/part/web.yaml": """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  strategy: {type: Recreate}
  template:
    spec:
      containers:
        - name: app
          workingDir: /part
""",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    top = tmp_path_factory.mktemp("located") / "k8s"
    for name, text in FILES.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    return top


APP = ("spec", "template", "spec", "containers", 0)  # kustomize puts what a patch merged first


@pytest.mark.parametrize("kind, path, file, text", [
    ("Deployment", ("spec", "replicas"), "base/all.yaml", "replicas: 1"),
    ("Deployment", (*APP, "image"), "base/kustomization.yaml", "name: app, newTag"),
    ("Deployment", (*APP, "workingDir"), "overlays/dev/part/web.yaml", "workingDir: /part"),
    ("Deployment", (*APP, "env", 0, "value"), "overlays/dev/kustomization.yaml", "value: b"),
    ("Deployment", (*APP, "resources"), "overlays/dev/part/web.yaml", "- name: app"),
    ("ConfigMap", ("data", "from"), "overlays/dev/part/web.yaml", "strategy: {type"),
    ("ConfigMap", ("data", "settings.yaml", "train", "lr"), "overlays/dev/settings.yaml", "lr: 1"),
    ("ConfigMap", ("data", "settings.yaml", "train", "rl"), "overlays/dev/settings.yaml", "train:"),
    ("Service", ("spec",), "overlays/dev/kustomization.yaml", "resources: [../../base]"),
], ids=str)  # fmt: skip
def test_a_value_is_found_where_it_was_written_last(folder, kind, path, file, text):
    fields = [(one, {**one.get("spec", {}), **one.get("data", {})}) for one in render(folder, "dev")]
    things = [one for one, known in fields if one["kind"] == kind and (path[1:2] == () or path[1] in known)]
    obj = things[0] if things else {"kind": kind, "metadata": {"name": "none"}}
    lines = FILES[file].splitlines()
    (number,) = [number for number, line in enumerate(lines, 1) if text in line]
    assert SourceMap(folder, "dev").locate(obj, path) == (f"k8s/{file}", number)


def test_a_file_outside_of_the_folder_has_a_name_as_well(tmp_path):
    assert relative_file(tmp_path / "shared" / "all.yaml", tmp_path / "mine" / "k8s") == "../shared/all.yaml"
