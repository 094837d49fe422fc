"""Rules of what other things rely on: who outranks whom, who may be drained, and what may exist once only."""

from __future__ import annotations

from fractions import Fraction

from emoji_ldm.kubernetes.lint.k8s_enums import IMAGE
from emoji_ldm.kubernetes.lint.quantities import quantity
from emoji_ldm.kubernetes.lint.rules.rule import CLUSTER, OBJECT, POD, RuleTarget, Violations, rule
from emoji_ldm.kubernetes.lint.rules.scheduling import selected

# Servers whose Pods do not form one server: each Pod of a second replica would hold data of its own.
SINGLE_SERVERS = ("chrislusf/seaweedfs", "redis")
PUBLIC = ("LoadBalancer", "NodePort")


@rule(OBJECT, "PriorityClass")
def work_does_not_outrank_what_it_needs(target: RuleTarget) -> Violations:
    """Kubernetes scheduling: on a full node, a Pod evicts those of lower priority."""
    # Operators and DNS have 0, the default of Kubernetes. Work above that once evicted the store that it read from.
    name, value = target.object["metadata"]["name"], int(target.object.get("value") or 0)
    users = [pod for pod in target.context.pods if pod.spec.get("priorityClassName") == name and pod.role != "pod"]
    classes = target.context.by_kind.get("PriorityClass", {})
    servers = {int((classes.get(str(pod.spec.get("priorityClassName"))) or {}).get("value") or 0)
               for pod in target.context.pods if pod.source_object.get("kind") == "StatefulSet"}  # fmt: skip
    lowest = min({0, *servers})
    if users and value > lowest:
        text = f"{value} outranks what its Pods rely on: operators, DNS, store and Redis (the lowest has {lowest})"
        yield ("value",), text


@rule(OBJECT, "PodDisruptionBudget")
def budgets_let_one_of_several_go(target: RuleTarget) -> Violations:
    """Kubernetes policy/v1: a drain waits as long as the budget allows no eviction."""
    # A budget of the only Pod is deliberate: what exists once is moved by hand.
    least = target.spec.get("minAvailable")
    pods = list(selected(target, target.spec.get("selector") or {}))
    counts = [int(pod.group.get("minReplicas") or 0) if pod.role == "worker" else pod.count for pod in pods]
    if isinstance(least, int) and least > 1 and counts and least >= sum(counts):
        yield ("spec", "minAvailable"), f"{least} of at least {sum(counts)} Pods: none may ever be drained"


@rule(POD)
def scratch_space_lies_within_the_limit(target: RuleTarget) -> Violations:
    """kubelet, eviction manager: a Pod that uses more than its limits is evicted, volumes included."""
    if target.pod is None or target.pod.role == "cleanup":
        return  # it runs for seconds and writes nothing
    spec = target.value["spec"]
    own = [*(spec.get("containers") or []),
           *(one for one in spec.get("initContainers") or [] if one.get("restartPolicy") == "Always")]  # fmt: skip
    for index, volume in enumerate(spec.get("volumes") or []):
        scratch = volume.get("emptyDir") or {}
        resource = "memory" if scratch.get("medium") == "Memory" else "ephemeral-storage"
        given = [quantity(((one.get("resources") or {}).get("limits") or {}).get(resource)) for one in own]
        limit = sum((one for one in given if one is not None), Fraction(0))
        size = quantity(scratch.get("sizeLimit"))
        if limit and size is not None and size > limit:
            where = ("spec", "volumes", index, "emptyDir", "sizeLimit")
            yield where, f"{scratch['sizeLimit']} is more than the {resource} that the Pod may use"


@rule(OBJECT, "StatefulSet")
def single_servers_have_one_pod(target: RuleTarget) -> Violations:
    """SeaweedFS `weed server` and Redis without Sentinel: Pods of one StatefulSet know nothing of each other."""
    containers = ((target.spec.get("template") or {}).get("spec") or {}).get("containers") or []
    found = [IMAGE.fullmatch(str(one.get("image", ""))) for one in containers]
    names = [str(one["name"]) for one in found if one]
    alone = [name for name in names if any(f"/{name}".endswith(f"/{single}") for single in SINGLE_SERVERS)]
    if alone and int(target.spec.get("replicas", 1)) > 1:
        yield ("spec", "replicas"), f"each Pod of {alone[0]} would be a server of its own, with other data"


@rule(OBJECT, "Service")
def data_is_not_public(target: RuleTarget) -> Violations:
    """Project policy: only the gateway is reachable from outside of the cluster."""
    pods = selected(target, {"matchLabels": target.spec["selector"]}) if target.spec.get("selector") else iter(())
    holds_data = any(pod.source_object.get("kind") == "StatefulSet" for pod in pods)
    if holds_data and (target.spec.get("type") in PUBLIC or target.spec.get("externalIPs")):
        yield ("spec",), "opens a store to the network outside of the cluster: use a gateway or a port-forward"


@rule(CLUSTER)
def the_redis_of_a_cluster_exists(target: RuleTarget) -> Violations:
    """Ray: a head waits for its Redis, and ends without it."""
    # A name without a dot is that of a Service in this namespace; other names are those of servers elsewhere.
    address = str((target.value.get("gcsFaultToleranceOptions") or {}).get("redisAddress") or "")
    host = address.rpartition("://")[2].partition(":")[0]
    if host and "." not in host and not target.context.has("Service", host):
        where = ("gcsFaultToleranceOptions", "redisAddress")
        yield where, f"no Service {host!r} (there are: {target.context.names('Service')})"
