"""Rules of security: the "restricted" Pod Security Standard for every container, added ones too, and no secrets in git.

Source of the level: https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
"""

from __future__ import annotations

import re

from emoji_ldm.kubernetes.lint.rendering import KubeObject
from emoji_ldm.kubernetes.lint.rules.rule import CONTAINER, OBJECT, POD, RuleTarget, Violations, env, rule

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
# These lists are copied from the standard, because neither the schemas nor kustomize know it. Only the API server of a
# labelled namespace enforces them, by refusing Pods: the object above a Pod is accepted, and its controller fails to
# create the Pod again and again.
SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
}  # fmt: skip
# Names of variables that hold secrets, and contents that are secrets whatever their name. Both err on the side of too
# many findings.
SECRET_NAME = re.compile(r"secret|password|passwd|(^|_)token$|access.?key|credential|api.?key", re.IGNORECASE)
PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----|AKIA[0-9A-Z]{16}")


@rule(POD)
def a_pod_shares_nothing_of_its_host(target: RuleTarget) -> Violations:
    """Pod Security Standards, restricted."""
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if target.value["spec"].get(key):
            yield ("spec", key), f"{key} is set: a restricted namespace refuses it"


@rule(POD)
def volumes_are_of_allowed_kinds(target: RuleTarget) -> Violations:
    """Pod Security Standards, restricted."""
    for index, volume in enumerate(target.value["spec"].get("volumes") or []):
        for kind in volume.keys() - {"name"} - VOLUMES:
            yield ("spec", "volumes", index), f"a volume of kind {kind} is refused in a restricted namespace"


@rule(POD)
def only_safe_kernel_settings_are_set(target: RuleTarget) -> Violations:
    """Pod Security Standards, restricted."""
    for index, item in enumerate((target.value["spec"].get("securityContext") or {}).get("sysctls") or []):
        if item.get("name") not in SYSCTLS:
            yield (
                ("spec", "securityContext", "sysctls", index),
                f"the setting {item.get('name')} is not on the list of safe ones",
            )


@rule(CONTAINER)
def no_container_runs_as_root(target: RuleTarget) -> Violations:
    """Pod Security Standards, restricted."""
    # The container's own settings take precedence over those of its Pod, so both are merged first. The user is checked
    # apart, because runAsNonRoot beside user 0 contradicts itself and passes every schema.
    settings = _effective(target)
    if settings.get("runAsNonRoot") is not True:
        yield _where(target), _message(target, "may run as root: set runAsNonRoot")
    if settings.get("runAsUser") == 0:
        yield _where(target), _message(target, "runs as user 0")


@rule(CONTAINER)
def every_container_has_a_seccomp_profile(target: RuleTarget) -> Violations:
    """Pod Security Standards, restricted."""
    if (_effective(target).get("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield _where(target), _message(target, "has no seccomp profile: set seccompProfile.type RuntimeDefault")


@rule(CONTAINER)
def no_container_gains_privileges(target: RuleTarget) -> Violations:
    """Pod Security Standards, restricted."""
    # These fields exist on containers only, so there is nothing to inherit from the Pod.
    if _own(target).get("allowPrivilegeEscalation") is not False:
        yield _where(target), _message(target, "may gain privileges: set allowPrivilegeEscalation: false")
    if _own(target).get("privileged"):
        yield _where(target), _message(target, "is privileged")


@rule(CONTAINER)
def no_container_keeps_capabilities(target: RuleTarget) -> Violations:
    """Pod Security Standards, restricted."""
    capabilities = _own(target).get("capabilities") or {}
    if "ALL" not in (capabilities.get("drop") or []):
        yield _where(target), _message(target, "keeps capabilities: drop ALL")
    if more := set(capabilities.get("add") or []) - {"NET_BIND_SERVICE"}:
        yield _where(target), _message(target, f"adds the capabilities {', '.join(sorted(more))}")


@rule(CONTAINER)
def no_container_unmasks_proc(target: RuleTarget) -> Violations:
    """Pod Security Standards, restricted."""
    if _own(target).get("procMount") not in (None, "Default"):
        yield _where(target), _message(target, "changes procMount")


@rule(CONTAINER)
def no_container_takes_a_port_of_its_host(target: RuleTarget) -> Violations:
    """Pod Security Standards, restricted."""
    for index, port in enumerate(target.value.get("ports") or []):
        if port.get("hostPort"):
            yield ("ports", index), _message(target, f"binds port {port['hostPort']} of its node")


@rule(POD)
def a_token_is_mounted_only_where_it_is_needed(target: RuleTarget) -> Violations:
    """Project policy: each workload has its own account; only Pods that call the API server mount its token.

    The head of an autoscaled cluster watches its own object; no other Pod of ours calls the API server.
    """
    pod = target.pod
    # A cleanup Job is a copy of the head's template, which keeps the head's setting.
    needs = pod is not None and ("autoscaler" in pod.injected or pod.role == "cleanup")
    if not needs and target.value["spec"].get("automountServiceAccountToken") is not False and not _bound(target):
        yield ("spec",), "automountServiceAccountToken must be false: this Pod does not call the API server"


@rule(CONTAINER)
def secrets_come_by_reference(target: RuleTarget) -> Violations:
    """Project policy: secrets are set only by reference."""
    for index, item in enumerate(target.value.get("env") or []):
        if SECRET_NAME.search(item["name"]) and item.get("value") and not target.injected:
            yield ("env", index), f"{item['name']} has a literal value: take it from a Secret (valueFrom.secretKeyRef)"


@rule(OBJECT, "Secret")
def no_secret_is_in_git(target: RuleTarget) -> Violations:
    """Project policy: secrets are never in git."""
    if target.object.get("data") or target.object.get("stringData"):
        yield (), "a Secret with values must not be in git: declare it in k8s/secrets.yaml"


@rule(OBJECT, "ConfigMap")
def no_config_holds_a_key(target: RuleTarget) -> Violations:
    """Project policy: secrets are never in git."""
    for name, text in (target.object.get("data") or {}).items():
        if PEM.search(text):
            yield ("data", name), "holds a private key"


@rule(OBJECT, "Namespace")
def our_namespaces_enforce_the_standard(target: RuleTarget) -> Violations:
    """Pod Security Standards, restricted."""
    # The label is what makes the API server enforce the standard; without it the rules above would be advice only.
    if target.labels.get("pod-security.kubernetes.io/enforce") != "restricted":
        yield ("metadata", "labels"), "the label pod-security.kubernetes.io/enforce: restricted is missing"


@rule(CONTAINER)
def no_hook_stops_ray(target: RuleTarget) -> Violations:
    """kuberay#2724: `ray stop` ends processes that the operator then restarts."""
    # The hook runs before the container receives its signal. The processes that it ends are those that would drain.
    hook = (target.value.get("lifecycle") or {}).get("preStop") or {}
    if "ray stop" in " ".join((hook.get("exec") or {}).get("command") or []):
        yield (
            ("lifecycle", "preStop"),
            "do not call `ray stop`: Ray drains by itself, and the operator restarts what it stops",
        )


@rule(POD)
def the_grace_period_covers_the_drain(target: RuleTarget) -> Violations:
    """ray#64454: a drain that outlasts the grace period is killed."""
    # Both begin when the Pod is told to stop, and the kubelet kills the container when the grace period is over.
    grace = target.value["spec"].get("terminationGracePeriodSeconds", 30)
    for container in target.value["spec"].get("containers") or []:
        text = (env(container, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S") or {}).get("value", "0")
        if not text.isdigit() or int(text) >= grace > 0:
            yield ("spec",), f"terminationGracePeriodSeconds {grace} must exceed the drain timeout of {text} s"


@rule(POD)
def ray_can_write_its_session(target: RuleTarget) -> Violations:
    """Project policy: Ray writes its session into /tmp/ray."""
    # The root file system of a restricted container may be read-only, and an emptyDir without a bound could fill the
    # disk of its node.
    if target.pod is None or target.pod.role not in ("head", "worker"):
        return
    container = (target.value["spec"].get("containers") or [{}])[0]
    mounts = {mount["mountPath"].rstrip("/"): mount for mount in container.get("volumeMounts") or []}
    if not any(path in mounts and not mounts[path].get("readOnly") for path in ("/tmp", "/tmp/ray")):
        yield ("spec", "containers", 0), "mount a writable, bounded volume at /tmp or /tmp/ray for Ray's session"


def _effective(target: RuleTarget) -> KubeObject:
    pod = (target.pod.spec.get("securityContext") if target.pod else None) or {}
    return {**pod, **_own(target)}


def _own(target: RuleTarget) -> KubeObject:
    return target.value.get("securityContext") or {}


def _where(target: RuleTarget) -> tuple[str, ...]:
    return ("securityContext",) if "securityContext" in target.value and not target.injected else ()


def _message(target: RuleTarget, text: str) -> str:
    origin = ", which the operator adds," if target.injected else ""
    hint = (
        " (autoscalerOptions.securityContext)" if target.injected and target.value.get("name") == "autoscaler" else ""
    )
    return f"container {target.value.get('name')}{origin} {text}{hint}"


def _bound(target: RuleTarget) -> bool:
    """Whether a role is bound to the account of the Pod, which is therefore meant to call the API server."""
    account = target.value["spec"].get("serviceAccountName")
    bindings = target.context.of_kinds("RoleBinding", "ClusterRoleBinding")
    return any(subject.get("name") == account for one in bindings for subject in one.get("subjects") or [])
