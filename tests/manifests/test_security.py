"""No secret in git, an account of its own with few rights for each stage, and nothing open that need not be."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from emoji_ldm.kubernetes.lint import check
from emoji_ldm.kubernetes.lint.pods import ray_cluster
from emoji_ldm.kubernetes.lint.rendering import name_of, render
from emoji_ldm.kubernetes.status import KINDS
from tests.manifests.cached_overlays import all_pods, cached_objects
from tests.manifests.render import K8S, OVERLAYS, ROOT, copied

# What gitleaks and its like look for: keys by their form, and words that say what stands behind them.
LEAKS = {
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "AWS key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{36}\b",
    "hub token": r"\bhf_[A-Za-z0-9]{30,}\b",
    "JSON web token": r"\beyJ[A-Za-z0-9_-]{15,}\.eyJ[A-Za-z0-9_-]{15,}\.",
    "password in an address": r"://[^/\s:@$({<\"']+:[^/\s:@$({<\"']{6,}@",
    "assignment": r"(?i)(?:secret|password|passwd|token|api_?key|access_?key)[a-z_]*[\"']?\s*[:=]\s*[\"']"
                  r"(?=[^\"']*[0-9])(?=[^\"']*[A-Za-z])[A-Za-z0-9+/_=-]{20,}[\"']",
}  # fmt: skip
BINARY = {".png", ".jpg", ".gif", ".webp", ".gz", ".zip", ".parquet", ".safetensors", ".ico"}
GENERATED = {"requirements.lock", "infra/sbom"}  # hashes by the thousand
NAMESPACED_NOT = {"Namespace", "PriorityClass", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding",
                  "ClusterQueue", "ResourceFlavor", "Cohort", "Topology", "WorkloadPriorityClass", "NodePool",
                  "EC2NodeClass", "GatewayClass", "ClusterRole", "ClusterRoleBinding", "StorageClass"}  # fmt: skip
FOR_TESTS = {("tests/unit/crawl/selfsigned.pem", "private key")}  # of a server on loopback
STAGES = {"crawl", "caption", "autoencoder", "latents", "train", "generate", "report", "pipeline", "refresh", "serve"}


def leaks(text):
    return [name for name, pattern in LEAKS.items() if re.search(pattern, text)]


def tracked():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split(
        "\n"
    )
    if not any(listed):
        pytest.skip("no git clone")
    return [ROOT / name for name in listed if name and Path(name).suffix not in BINARY
            and not any(name.startswith(start) for start in GENERATED)]  # fmt: skip


def test_no_file_of_the_project_holds_a_secret():
    texts = {str(path.relative_to(ROOT)): path.read_text(errors="replace") for path in tracked() if path.is_file()}
    found = {(name, leak) for name, text in texts.items() for leak in leaks(text)}
    made_up = {(name, leak) for name, leak in found if leak == "assignment" and "tests" in Path(name).parts}
    assert len(texts) > 300
    assert found - made_up - FOR_TESTS == set()


@pytest.mark.parametrize("text", [
    "-----BEGIN RSA PRIVATE " + "KEY-----", "id: AKIA" + "IOSFODNN7EXAMPLE", "ghp_" + "a1" * 18, "hf_" + "aB3" * 12,
    "eyJ" + "hbGciOiJIUzI1NiJ9x" + ".eyJ" + "zdWIiOiIxMjM0NTY3O.", "redis://user:" + "hunter22@host",
    'password: "' + "a1b2c3d4e5" * 2 + '"', "AWS_SECRET_ACCESS_KEY='" + "a1b2c3d4e5" * 2 + "'",
], ids=lambda text: text[:12])  # fmt: skip
def test_a_secret_would_be_noticed(text):
    assert leaks(text)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_overlay_brings_a_secret_and_every_reference_is_declared(overlay):
    assert not [obj for obj in cached_objects(overlay) if obj["kind"] == "Secret"]
    listed = yaml.safe_load((K8S / "secrets.yaml").read_text())
    declared = {name for name, entry in listed.items() if overlay in entry["overlays"]}
    assert set(references(cached_objects(overlay))) == declared


def references(value):
    """Names of the Secrets that something names, however deep."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if key in ("secretKeyRef", "secretRef"):
            yield item["name"]
        elif key == "secretName":
            yield item
        elif isinstance(item, dict | list):
            yield from references(item)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_stores_administrator_is_known_to_the_store_and_its_jobs_alone(overlay):
    users = {pod.labels.get("app.kubernetes.io/name", pod.role) for pod in all_pods(overlay)
             for container in pod.containers if "store-admin" in references(container)}  # fmt: skip
    assert users == (set() if overlay == "eks" else {"store", "store-setup"})


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_has_the_account_of_its_stage_and_none_the_default_one(overlay):
    accounts = {obj["metadata"]["name"]: obj for obj in cached_objects(overlay) if obj["kind"] == "ServiceAccount"}
    assert set(accounts) >= STAGES
    for pod in all_pods(overlay):
        name = pod.spec.get("serviceAccountName")
        assert name in accounts, pod.owner
        if pod.role in ("head", "worker"):
            assert name == pod.labels["emoji-ldm/stage"], f"{pod.owner} {pod.role}"
    assert all(account["automountServiceAccountToken"] is False for account in accounts.values())


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_roles_name_what_they_allow_and_neither_secrets_nor_shells(overlay):
    roles = [obj for obj in cached_objects(overlay) if obj["kind"] in ("Role", "ClusterRole")]
    assert roles
    for rule in (rule for role in roles for rule in role["rules"]):
        assert "*" not in rule["apiGroups"] + rule["resources"] + rule["verbs"]
        assert not {"secrets", "pods/exec", "pods/attach", "serviceaccounts/token"} & set(rule["resources"])
        assert not {"bind", "escalate", "impersonate"} & set(rule["verbs"])


def test_the_role_to_run_stages_may_list_everything_that_status_shows():
    role = next(obj for obj in cached_objects("kind") if name_of(obj) == "Role/run-stages")
    readable = {f"{kind}.{group}".rstrip(".") for rule in role["rules"] for group in rule["apiGroups"]
                for kind in rule["resources"] if "list" in rule["verbs"]}  # fmt: skip
    whole_cluster = {"clusterqueues.kueue.x-k8s.io"}  # no Role can give that; status then says what it does not show
    assert set(KINDS) - readable == whole_cluster


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_cluster_wide_objects_have_no_namespace(overlay):
    for obj in cached_objects(overlay):
        there = obj["metadata"].get("namespace")
        assert there in ((None,) if obj["kind"] in NAMESPACED_NOT else ("emoji-ldm", "monitoring")), obj["kind"]


def test_seaweedfs_exposes_only_authenticated_ports_and_its_metrics():
    (store,) = (pod for pod in all_pods("kind") if pod.owner == "StatefulSet/store")
    arguments = next(one for one in store.containers if one["name"] == "store")["args"]
    assert "-ip.bind=127.0.0.1" in arguments  # master, volume and filer ask for nothing
    opened = {word.split("=")[0] for word in arguments if word.endswith("=0.0.0.0")}
    assert opened == {"-s3.ip.bind", "-metricsIp"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_not_ray_cannot_write_to_its_own_image(overlay):
    for pod in all_pods(overlay):
        if pod.role == "pod":
            for container in pod.containers:
                assert container["securityContext"]["readOnlyRootFilesystem"] is True, pod.owner


def test_the_namespace_enforces_the_restricted_standard():
    (space,) = (obj for obj in cached_objects("kind") if obj["kind"] == "Namespace")
    labels = space["metadata"]["labels"]
    assert {labels[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "warn", "audit")} == {"restricted"}


def test_the_runbooks_commands_give_the_token_a_new_name_everywhere(tmp_path):
    folder = copied(tmp_path)
    text = (ROOT / "infra/runbooks/rotate-token.md").read_text()
    lines = re.findall(r"^sed -i .*$", text, re.MULTILINE)
    assert len(lines) == 2
    for _ in range(2):  # the second rotation finds the name that the first one left
        script = "\n".join(['new="emoji-ldm-token-20260301"', *lines])
        subprocess.run(["sh", "-eu", "-c", script], cwd=folder.parent, check=True, timeout=10)
    names = {cluster["authOptions"]["secretName"] for obj in render(folder, "dev") if (cluster := ray_cluster(obj))}
    assert names == {"emoji-ldm-token-20260301"}
    assert [str(one) for one in check(folder, "dev")] == []
