"""Objects as `cluster status` reads them, and the row that it makes of the first."""

from datetime import UTC, datetime

from emoji_ldm.kubernetes.diagnostics import NamespaceState
from emoji_ldm.kubernetes.status_rows import build_rows

NOW = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def obj(kind, name, labels=None, owner=None, **fields):
    meta = {"name": name, "uid": f"{kind}-{name}", "creationTimestamp": NOW, "labels": labels or {}}
    if owner:
        meta["ownerReferences"] = [{"kind": owner.partition("-")[0], "uid": owner, "controller": True}]
    return {"kind": kind, "metadata": meta, "spec": {}, **fields}


def pod(cluster, name="head", kind="head", **status):
    return obj("Pod", name, {"ray.io/cluster": cluster, "ray.io/node-type": kind}, status=status)


def waiting(reason, image="quay.io/x:1", message="", **more):
    state = {"waiting": {"reason": reason, "message": message}}
    return {"phase": "Pending", "containerStatuses": [{"name": "ray-head", "image": image, "state": state, **more}]}


def first_row(*objects):
    """The first row of the status of these objects."""
    return next(build_rows(NamespaceState(objects)))


def condition(kind, status, message="", reason=""):
    return {"type": kind, "status": status, "message": message, "reason": reason}


CLUSTER = obj("RayCluster", "emoji-ldm", spec={}, status={"state": ""})

OOM = {"reason": "OOMKilled", "exitCode": 137}

UNPLACED = condition("PodScheduled", "False", "0/5 nodes are available: 5 Insufficient nvidia.com/gpu")
