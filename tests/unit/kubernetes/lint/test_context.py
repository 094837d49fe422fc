"""The lists beside the overlays that rules look things up in: versions and Secrets."""

import shutil

import pytest
import yaml

from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.lint.context import LintContext, read_mapping
from tests.manifests.render import K8S


@pytest.mark.parametrize(("file", "change", "text"), [
    ("secrets.yaml", lambda values: values["redis"].pop("overlays"), "redis needs two lists"),
    ("secrets.yaml", lambda values: values.update(redis=["password"]), "redis needs two lists"),
    ("versions.yaml", lambda values: values.pop("images"), "versions.yaml lacks images"),
])  # fmt: skip
def test_a_mistake_in_versions_or_secrets_is_reported_in_one_line(file, change, text, tmp_path):
    for name in ("secrets.yaml", "versions.yaml"):
        shutil.copy(K8S / name, tmp_path)
    values = yaml.safe_load((K8S / file).read_text())
    change(values)
    (tmp_path / file).write_text(yaml.safe_dump(values))
    around = LintContext((), "kind", tmp_path)
    with pytest.raises(ConfigError, match=text):
        assert around.secrets and around.versions


def test_an_external_secret_declares_the_keys_that_it_fetches(tmp_path):
    (tmp_path / "secrets.yaml").write_text("redis: {keys: [password], overlays: [eks]}\n")
    fetched = {"kind": "ExternalSecret", "metadata": {"name": "a"},
               "spec": {"target": {"name": "store"}, "data": [{"secretKey": "id"}, {"secretKey": "key"}]}}  # fmt: skip
    assert LintContext((fetched,), "eks", tmp_path).secrets == {"redis": {"password"}, "store": {"id", "key"}}
    assert LintContext((), "kind", tmp_path).secrets == {}


@pytest.mark.parametrize(("text", "message"), [("a: [b", "is not YAML"), ("- a", "is not a mapping")])
def test_a_list_of_a_wrong_form_is_reported_in_one_line(text, message, tmp_path):
    (tmp_path / "versions.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as raised:
        read_mapping(tmp_path / "versions.yaml")
    assert "\n" not in str(raised.value)
