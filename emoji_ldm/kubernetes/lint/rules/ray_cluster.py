"""Rules of KubeRay for every Ray cluster, in whichever kind of object it is described."""

from __future__ import annotations

import re

from emoji_ldm.kubernetes.lint.k8s_enums import LABEL_VALUE, START_OPTIONS, qualified_name
from emoji_ldm.kubernetes.lint.rules.rule import (
    CLUSTER,
    GROUP,
    OBJECT,
    RuleTarget,
    Violations,
    autoscaled,
    env,
    head_container,
    rule,
    version_of,
)

# KubeRay checks a specification when it reconciles the object, after the API server has accepted it. `kubectl apply`
# therefore succeeds, and the refusal is a warning on an object that never gets a Pod. The rules below repeat those
# checks so that the mistake is found before anything is applied.
#
# The lengths differ by kind because the name of a RayCluster is the stem of the names of its Pods and Services, that of
# a RayJob or RayService the stem of the name of a RayCluster, and that of a RayCronJob the stem of the names of its
# jobs.
NAME_LENGTHS = {"RayCluster": 53, "RayJob": 47, "RayService": 47, "RayCronJob": 36}
# Objects may have names that start with a digit, but Services may not, and KubeRay names Services after its objects.
DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
SIZES = ("num-cpus", "num-gpus", "memory", "resources")
# The schema accepts these fields whether or not the operator's feature gate is on; infra/helm/kuberay-operator.yaml
# sets the gates.
GATES_OFF = {"networkPolicy": "RayClusterNetworkPolicy", "tlsOptions": "RayClusterMTLS"}
PORTS = {"RayService": ("dashboard", "serve")}
RAY_CONTAINERS = ("ray-head", "ray-worker")
HEAD = ("headGroupSpec", "template", "spec", "containers", 0)


@rule(OBJECT, *NAME_LENGTHS)
def names_leave_room_for_what_the_operator_appends(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go ValidateRay*Metadata, MaxRay*NameLength."""
    name, maximum = target.object["metadata"]["name"], NAME_LENGTHS[target.kind]
    if len(name) > maximum:
        yield (
            ("metadata", "name"),
            f"the name has {len(name)} characters; the operator allows {maximum} for a {target.kind}",
        )


@rule(OBJECT, *NAME_LENGTHS)
def names_start_with_a_letter(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go IsDNS1035Label."""
    name = target.object["metadata"]["name"]
    if not DNS_1035.fullmatch(name):
        yield ("metadata", "name"), f"the name {name!r} is not a DNS-1035 label (a-z, 0-9, -; a letter first)"


@rule(GROUP)
def every_group_has_a_container(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go ValidateRayClusterSpec."""
    if not (target.value["template"].get("spec") or {}).get("containers"):
        yield ("template", "spec"), "the group has no container"


@rule(GROUP)
def the_container_of_ray_is_the_first(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/constant.go RayContainerIndex: the first container runs Ray."""
    # A strategic merge patch puts the containers that it adds before the others, and the object is valid: Ray's
    # command, ports and probes then go to the sidecar.
    names = [one.get("name") for one in (target.value["template"].get("spec") or {}).get("containers") or []]
    ray = next((index for index, name in enumerate(names) if name in RAY_CONTAINERS), 0)
    if ray:
        yield (
            ("template", "spec", "containers", 0),
            f"container {names[0]!r} comes before {names[ray]!r}, and KubeRay starts Ray in the first one; add it "
            "after that one by a JSON patch (op: add, path: /template/spec/containers/-), or to initContainers with "
            "restartPolicy: Always",
        )


@rule(GROUP)
def every_group_has_start_parameters(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/apis/ray/v1 RayStartParams lacks omitempty: a missing map is written back as null."""
    # An empty map passes and a missing one does not: Go writes a nil map as null, and the schema wants an object. The
    # manifest itself would be accepted, so the failure shows only when a controller updates the object.
    if target.value.get("rayStartParams") is None:
        yield (
            (),
            "rayStartParams is missing: write at least {}, or KubeRay and Kueue send null, which the API refuses",
        )


@rule(GROUP)
def sizes_are_said_once(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go validateRayGroupResources."""
    # Both fields tell Ray how large a Pod is, whatever its container requests. KubeRay does not choose between two
    # answers, and refuses the cluster.
    twice = [key for key in SIZES if (target.value.get("rayStartParams") or {}).get(key)]
    if twice and target.value.get("resources"):
        yield ("resources",), f"resources and rayStartParams ({', '.join(twice)}) both set sizes: keep one"


@rule(GROUP)
def labels_are_no_start_option(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go validateRayGroupLabels."""
    if "labels" in (target.value.get("rayStartParams") or {}):
        yield ("rayStartParams", "labels"), "use the group's own `labels` instead of the start option"


@rule(GROUP)
def labels_of_groups_are_labels(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go validateRayGroupLabels."""
    for key, value in (target.value.get("labels") or {}).items():
        if not qualified_name(key) or not LABEL_VALUE.fullmatch(value):
            yield ("labels", key), f"{key}={value} is not a valid label"


@rule(GROUP)
def the_least_is_not_more_than_the_most(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go ValidateRayClusterSpec."""
    least, most = target.value.get("minReplicas"), target.value.get("maxReplicas")
    if least is not None and most is not None and least > most:
        yield ("minReplicas",), f"minReplicas {least} is more than maxReplicas {most}"


@rule(GROUP)
def counts_are_not_negative(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go ValidateRayClusterSpec."""
    for key in ("minReplicas", "maxReplicas", "replicas", "idleTimeoutSeconds"):
        if (value := target.value.get(key)) is not None and value < 0:
            yield (key,), f"{key} is negative"


@rule(CLUSTER)
def groups_of_a_fixed_cluster_say_both_bounds(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go ValidateRayClusterSpec.

    The operator refuses a group without both bounds when there is no autoscaler.
    """
    for index, group in enumerate(target.value.get("workerGroupSpecs") or []):
        missing = [key for key in ("minReplicas", "maxReplicas") if group.get(key) is None]
        if missing and not autoscaled(target.value):
            yield ("workerGroupSpecs", index), f"without autoscaling a group must set {' and '.join(missing)}"


@rule(GROUP)
def the_count_lies_between_the_bounds(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/util.go CalculateDesiredReplicas."""
    # The operator does not refuse such a count: it silently corrects it to the nearest bound, so that the manifest
    # would say one number and the cluster have another. Groups with bounds in the wrong order have a finding of their
    # own.
    group = target.value
    count, least, most = group.get("replicas"), group.get("minReplicas"), group.get("maxReplicas")
    if count is None or least is None or most is None or least > most:
        return
    if not least <= count <= most:
        yield ("replicas",), f"replicas {count} does not lie between minReplicas {least} and maxReplicas {most}"


@rule(CLUSTER)
def groups_have_different_names(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/common/pod.go: Pods and Services are named after the group."""
    # No schema demands this, because workerGroupSpecs is a plain list there. Pods are matched to their group by a label
    # with its name, so two groups of one name would count each other's Pods.
    seen: set[str] = set()
    for index, group in enumerate(target.value.get("workerGroupSpecs") or []):
        if group["groupName"] in seen:
            yield ("workerGroupSpecs", index, "groupName"), f"two groups are called {group['groupName']!r}"
        seen.add(group["groupName"])


@rule(GROUP)
def start_options_exist(target: RuleTarget) -> Violations:
    """`ray start --help`, Ray 2.60: an unknown option ends the container at once."""
    for key in target.value.get("rayStartParams") or {}:
        if key not in START_OPTIONS:
            yield ("rayStartParams", key), f"`ray start` has no option --{key}"


@rule(CLUSTER)
def a_token_needs_a_version(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go IsAuthEnabled."""
    if _mode(target) == "token" and not target.value.get("rayVersion"):
        yield (), "token mode needs an explicit rayVersion"


@rule(CLUSTER)
def a_token_needs_ray_2_52(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go IsAuthEnabled, minimum 2.52.0."""
    text = target.value.get("rayVersion")
    if _mode(target) == "token" and text and (version_of(text) or (0,)) < (2, 52):
        yield ("rayVersion",), f"token mode needs Ray 2.52 or newer, not {text}"


@rule(CLUSTER)
def tokens_of_kubernetes_are_for_bare_clusters(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go IsK8sAuthEnabled; not for RayJob and RayService."""
    # Three conditions are reported separately, because each has a remedy of its own; none of them implies another.
    options = target.value.get("authOptions") or {}
    if not options.get("enableK8sTokenAuth"):
        return
    where = ("authOptions", "enableK8sTokenAuth")
    if target.kind != "RayCluster":
        yield where, f"a {target.kind} cannot use Kubernetes tokens"
    if options.get("mode") != "token" or options.get("secretName"):
        yield where, "Kubernetes tokens need mode token and no secretName"
    if (version_of(target.value.get("rayVersion")) or (0,)) < (2, 55):
        yield where, "Kubernetes tokens need Ray 2.55 or newer"


@rule(CLUSTER)
def every_cluster_asks_for_a_token(target: RuleTarget) -> Violations:
    """CVE-2023-48022: anyone who reaches port 8265 of a cluster without a token can run code on it."""
    # The dashboard runs whatever is submitted to it, and NetworkPolicies only narrow down who reaches it. The name of a
    # RayJob's cluster is random, so clients know the Secret of its token only if the manifest names one.
    if _mode(target) != "token":
        yield ("authOptions",), "authOptions.mode must be token: anyone who reaches port 8265 can run code"
    elif not (target.value["authOptions"].get("secretName") or target.value["authOptions"].get("enableK8sTokenAuth")):
        yield ("authOptions",), "authOptions.secretName is missing: clusters with random names need one known token"


@rule(CLUSTER)
def alpha_features_are_not_used(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go: alpha gates that are off in the pinned operator."""
    for key, gate in GATES_OFF.items():
        if target.value.get(key) is not None:
            yield (key,), f"{key} needs the feature gate {gate}, which is off"


@rule(CLUSTER)
def the_history_collector_is_whole(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go validateCollectorOptions."""
    # Only a literal value counts, as in the operator's own check; a reference to a Secret or ConfigMap does not.
    if (options := target.value.get("historyServerOptions")) is None:
        return
    collector = options.get("collectorOptions") or {}
    if not collector.get("image"):
        yield ("historyServerOptions",), "collectorOptions.image must be set"
    if not (env(collector, "STORAGE_BACKEND") or {}).get("value"):
        yield ("historyServerOptions",), "collectorOptions.env must set STORAGE_BACKEND to a literal value"


@rule(CLUSTER)
def the_operator_finds_ports_by_name(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/common/service.go: ports are found by name."""
    # Without any ports the operator uses its defaults, so only a list that lacks one of these names is wrong.
    ports = head_container(target.value).get("ports")
    names = {port.get("name") for port in ports or []}
    for name in PORTS.get(target.kind, ("dashboard",)):
        if ports and name not in names:
            yield (*HEAD, "ports"), f"the head declares ports but none named {name!r}: the operator cannot find it"


@rule(CLUSTER)
def no_tasks_run_on_the_head(target: RuleTarget) -> Violations:
    """Ray 2.60 docs, `num-cpus: 0` on the head: tasks there starve the control plane."""
    # The value is compared as a string: rayStartParams is a map of strings, and the number 0 would not pass its schema.
    if (target.value["headGroupSpec"].get("rayStartParams") or {}).get("num-cpus") != "0":
        yield ("headGroupSpec", "rayStartParams"), 'num-cpus must be "0": tasks on the head starve Ray itself'


@rule(CLUSTER)
def there_is_one_ray_version(target: RuleTarget) -> Violations:
    """Project policy: the operator and the autoscaler go by rayVersion, so it is the version of versions.yaml."""
    # A missing version is no finding here: `a_token_needs_a_version` reports it.
    expected, found = str(target.context.versions["ray"]), target.value.get("rayVersion")
    if found and found != expected:
        yield ("rayVersion",), f"rayVersion {found} is not that of versions.yaml, {expected}"


def _mode(target: RuleTarget) -> object:
    return (target.value.get("authOptions") or {}).get("mode")
