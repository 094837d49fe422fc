"""Errors of kubectl become one line with a remedy, and its time limits fit those of kubectl itself."""

import re
from types import SimpleNamespace

import pytest

from emoji_ldm.errors import ClusterError, ConfigError
from emoji_ldm.kubernetes import down, kubectl, up
from emoji_ldm.kubernetes.kubectl import Kubectl, explain_error


def test_refused_credentials_are_reported_with_a_hint_to_log_in(cluster, api):
    api.strangers = True
    status, _, said = cluster("status")
    assert status == 1 and said.count("\n") == 1
    assert said.startswith("error: the cluster did not accept your credentials")


def test_an_unreachable_cluster_is_reported_in_one_line(cluster, tmp_path):
    config = tmp_path / "kubeconfig"
    config.write_text(config.read_text().replace("server: http://127.0.0.1:", "server: http://127.0.0.1:1#"))
    status, _, said = cluster("status")
    assert status == 1 and said.startswith("error: no Kubernetes cluster answers") and said.count("\n") == 1


def test_an_unknown_context_is_reported_in_one_line(cluster):
    status, _, said = cluster("status", "--context", "nope")
    assert (
        status == 2 and said == "error: your kubeconfig has no context 'nope'; list them: kubectl config get-contexts\n"
    )


def test_without_kubectl_its_source_is_named(monkeypatch, tmp_path):
    from emoji_ldm.kubernetes.kubectl import find_kubectl

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(kubectl, "bundled_tool", lambda _: None)
    with pytest.raises(ConfigError, match="kubectl is not installed; get it from"):
        find_kubectl()


@pytest.mark.parametrize(("said", "text"), [
    ('Error from server (Forbidden): error when creating "STDIN": pods "x" is forbidden: violates PodSecurity',
     'pods "x" is forbidden: violates PodSecurity'),
    ("Unable to connect to the server: dial tcp 10.0.0.1:443: i/o timeout", "no Kubernetes cluster answers"),
    ('The Job "store-setup" is invalid: spec.template: Invalid value: {}: field is immutable',
     "Job store-setup cannot be changed in place; delete it, then run this again: kubectl -n emoji-ldm delete job"),
    ('The StatefulSet "store" is invalid: spec: Forbidden: updates to statefulset spec for fields other',
     "delete statefulset store --cascade=orphan"),
    ('The PriorityClass "emoji-batch" is invalid: value: Forbidden: may not be changed in an update.',
     "PriorityClass emoji-batch cannot be changed in place; delete it, then run this again: kubectl -n emoji-ldm"),
    ("", "kubectl failed without a message"),
])  # fmt: skip
def test_errors_of_kubectl_become_one_line(said, text):
    assert text in str(explain_error(said)) and "\n" not in str(explain_error(said))


CONFLICTS = """error: Apply failed with 3 conflicts: conflicts with "kubectl-edit" using apps/v1:
- .spec.replicas
- .spec.template.spec.containers[name="store"].image
conflict with "argocd-controller" using apps/v1: .metadata.labels.team
Please review the fields above--they currently have other managers. Here
are the ways you can resolve this warning:
* If you intend to manage all of these fields, please re-run the apply
  command with the `--force-conflicts` flag.
"""


def test_a_conflict_names_all_fields_by_who_changed_them_in_one_line_without_kubectls_advice():
    assert str(explain_error(CONFLICTS)) == (
        "fields of the manifests were changed by other means: "
        '.spec.replicas, .spec.template.spec.containers[name="store"].image by kubectl-edit; '
        ".metadata.labels.team by argocd-controller"
    )


WEBHOOK = (
    'Error from server (InternalError): error when creating "STDIN": Internal error occurred: failed calling webhook '
    '"vrayjob.kb.io": failed to call webhook: Post "https://kueue.svc:443/v?timeout=10s": context deadline exceeded'
)


def test_a_deadline_is_not_the_name_of_a_context():
    late = explain_error("Unable to connect to the server: context deadline exceeded (Client.Timeout exceeded)")
    assert isinstance(late, ClusterError) and "no Kubernetes cluster answers" in str(late)
    assert str(explain_error(WEBHOOK)).startswith("Internal error occurred: failed calling webhook")
    assert up.OPERATOR_STARTING.search(str(explain_error(WEBHOOK))), "an operator that just began: `up` asks again"
    for said in ('error: context "nope" does not exist', "error: context was not found for specified context: nope"):
        assert "has no context 'nope'" in str(explain_error(said))


def test_a_deletion_is_given_more_time_than_kubectl_itself_waits(monkeypatch):
    asked = {}

    def run(words, *, timeout, **_):
        asked[" ".join(words[1:])] = timeout
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    monkeypatch.setattr(kubectl, "find_kubectl", lambda: "kubectl")
    monkeypatch.setattr(kubectl.subprocess, "run", run)
    Kubectl().run("delete", "rayclusters.ray.io", *down.WAIT)
    ((words, timeout_s),) = asked.items()
    own_s = int(re.search(r"--timeout=(\d+)s", words)[1])
    assert timeout_s > own_s and "--request-timeout" not in words
