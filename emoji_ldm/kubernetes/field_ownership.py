"""Who owns which field of an installed object: what `cluster up` applies once controllers and people have written too.

`up` uses server-side apply as the manager `emoji-ldm`, which owns what the manifests set. Three things are owned by
others, so that `up` can run again at any time without a conflict and without a restarted Pod:

- The number of Pods. `kubectl scale` owns `replicas` of a StatefulSet or Deployment once somebody has used it, and
  Ray's autoscaler owns `replicas` and `scaleStrategy` of the worker groups that it scales.
- `suspend` of the nightly job, once somebody has patched it.
- The spelling of the worker groups. `workerGroupSpecs` is an atomic list in KubeRay's schema: it has one owner as a
  whole. KubeRay writes the object with its finalizer, its client adds empty fields such as `resources: {}`, and so it
  becomes the owner of the list. Ray's objects are therefore applied with force, but only where the result means
  something else than what is there.

See https://kubernetes.io/docs/reference/using-api/server-side-apply/.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from emoji_ldm.kubernetes.lint.quantities import quantity
from emoji_ldm.kubernetes.lint.rendering import KubeObject

MANAGER = "emoji-ldm"
# Fields that a person may take over by `kubectl scale` or `kubectl patch`.
HANDED_OVER = {
    "StatefulSet": ("spec", "replicas"),
    "Deployment": ("spec", "replicas"),
    "RayCronJob": ("spec", "suspend"),
}
# Where the description of a Ray cluster is in each kind.
CLUSTER_SPECS = {
    "RayCluster": ("spec",),
    "RayService": ("spec", "rayClusterConfig"),
    "RayCronJob": ("spec", "jobTemplate", "rayClusterSpec"),
}
Identity = tuple[str, str, str]  # kind, namespace, name


def identity(obj: KubeObject) -> Identity:
    """What tells one object of an overlay from all others."""
    metadata = obj["metadata"]
    return obj["kind"], metadata.get("namespace", ""), metadata["name"]


def is_shared(obj: KubeObject) -> bool:
    """Whether others own fields of such an object, so that the installed one must be read before it is applied."""
    return obj["kind"] in HANDED_OVER or obj["kind"] in CLUSTER_SPECS


def yield_to_owners(desired: KubeObject, installed: KubeObject, *, force: bool = False) -> KubeObject:
    """The desired object without the fields that others own in the installed one, or with their values.

    With `force` people lose their fields, but the autoscaler keeps its own. It may write between this reading and the
    apply; its next round, seconds later, repeats what was lost.
    """
    obj = copy.deepcopy(desired)
    path = HANDED_OVER.get(obj["kind"], ())
    if path and not force and _is_taken_over(installed, path):
        _at(obj, path[:-1]).pop(path[-1], None)
    if obj["kind"] in CLUSTER_SPECS:
        spec, old = (_at(one, CLUSTER_SPECS[obj["kind"]]) for one in (obj, installed))
        groups = {group["groupName"]: group for group in old.get("workerGroupSpecs") or ()}
        for group in spec.get("workerGroupSpecs") or () if spec.get("enableInTreeAutoscaling") else ():
            _keep_size(group, groups.get(group["groupName"], {}))
    return obj


def is_same(applied: KubeObject, installed: KubeObject) -> bool:
    """Whether two states of an object mean the same: empty fields and the spelling of quantities do not count."""
    return bool(_meaning(_applied_parts(applied)) == _meaning(_applied_parts(installed)))


def _keep_size(group: dict[str, Any], old: dict[str, Any]) -> None:
    """Copy what the autoscaler wrote into a worker group, within the limits of the manifests."""
    if old.get("replicas") is not None:
        most = group.get("maxReplicas", old["replicas"])
        group["replicas"] = min(max(old["replicas"], group.get("minReplicas", 0)), most)
    # The Pods that the autoscaler has chosen to go; without the list others would be stopped.
    if old.get("scaleStrategy"):
        group["scaleStrategy"] = old["scaleStrategy"]


def _is_taken_over(installed: KubeObject, path: tuple[str, ...]) -> bool:
    """Whether somebody else wrote the field after this project applied it, which ended its ownership.

    Who has it now does not matter, and is not always recorded: `kubectl scale` may leave a field without an owner.
    """
    entries: Iterable[dict[str, Any]] = installed["metadata"].get("managedFields") or ()
    own = [entry.get("fieldsV1") or {} for entry in entries
           if (entry.get("manager"), entry.get("operation")) == (MANAGER, "Apply")]  # fmt: skip
    return bool(own) and not any(_has(fields, [f"f:{part}" for part in path]) for fields in own)


def _has(fields: Any, path: list[str]) -> bool:
    for part in path:
        if part not in fields:
            return False
        fields = fields[part]
    return True


def _at(obj: KubeObject, path: tuple[str, ...]) -> dict[str, Any]:
    value: dict[str, Any] = obj
    for part in path:
        value = value.get(part) or {}
    return value


def _applied_parts(obj: KubeObject) -> dict[str, Any]:
    metadata = obj["metadata"]
    return {"spec": obj.get("spec"), "labels": metadata.get("labels"), "annotations": metadata.get("annotations")}


def _meaning(value: Any) -> Any:
    """The value without empty fields, with quantities as numbers."""
    if isinstance(value, dict):
        parts = {name: _meaning(item) for name, item in value.items()}
        return {name: item for name, item in parts.items() if item not in (None, {}, [], "")}
    if isinstance(value, list):
        return [_meaning(item) for item in value]
    # KubeRay's client writes "1000m" as "1".
    amount = quantity(value) if isinstance(value, str) else None
    return value if amount is None else float(amount)
