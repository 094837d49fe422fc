"""The objects of a Kubernetes API server and what may happen to them, as far as a real kubectl asks; no controllers.

What it keeps to: create, list (label and field selectors), server-side apply with field owners and conflicts, delete
with cascade by owner; resource versions, generations, uids; the API server's own words for what goes wrong; logs that
grow. What a kubelet or an operator would do, tests do: by `update`, or by functions in `reactions`, called after every
write, and in `looks`, before an object is got by its name. `apiserver_http` serves it.
"""

import base64
import copy
import threading
import uuid
from datetime import UTC, datetime

from tests.kubernetes.object_fields import chosen, dotted, field_set, leaves, merged, without

CLUSTER_WIDE = {"Namespace", "Node", "PriorityClass", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding",
                "ClusterQueue", "ResourceFlavor", "Cohort", "Topology", "WorkloadPriorityClass", "GatewayClass",
                "CustomResourceDefinition", "StorageClass"}  # fmt: skip
BUILT_IN = {
    "v1": ["Namespace", "Pod", "Secret", "ConfigMap", "Service", "ServiceAccount", "PersistentVolumeClaim", "Event",
           "ResourceQuota", "LimitRange", "Node"],
    "apps/v1": ["Deployment", "StatefulSet", "DaemonSet"], "batch/v1": ["Job", "CronJob"],
    "policy/v1": ["PodDisruptionBudget"], "networking.k8s.io/v1": ["NetworkPolicy"],
    "storage.k8s.io/v1": ["StorageClass"],
    "scheduling.k8s.io/v1": ["PriorityClass"], "rbac.authorization.k8s.io/v1": ["Role", "RoleBinding"],
    "admissionregistration.k8s.io/v1": ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"],
}  # fmt: skip
RAY = {"ray.io/v1": ["RayCluster", "RayJob", "RayService", "RayCronJob"]}
KUEUE = {"kueue.x-k8s.io/v1beta2": ["ClusterQueue", "LocalQueue", "ResourceFlavor", "Cohort", "Topology", "Workload",
                                    "WorkloadPriorityClass"]}  # fmt: skip
MONITORING = {"monitoring.coreos.com/v1": ["PodMonitor", "ServiceMonitor", "PrometheusRule", "Probe"]}
GATEWAY = {"gateway.networking.k8s.io/v1": ["Gateway", "HTTPRoute", "GatewayClass"]}


class Refusal(Exception):
    """What the API server answers instead of an object."""

    def __init__(self, code, reason, message, **details):
        super().__init__(message)
        self.status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
                       "reason": reason, "code": code, "details": details}  # fmt: skip


def _of_others(owned, manager):
    return {path for other, paths in owned.items() if other != manager for path in paths}


def plural(kind):
    word = kind.lower()
    if word.endswith(("policy", "topology")):
        return word[:-1] + "ies"
    return word + ("es" if word.endswith("ss") else "s")


class Api:
    """The objects, and what may happen to them."""

    def __init__(self, *kinds):
        self.kinds = {}  # (group/version, plural) -> kind
        for group in (BUILT_IN, *kinds):
            for version, names in group.items():
                self.kinds |= {(version, plural(name)): name for name in names}
        self.objects, self.owners, self.logs = {}, {}, {}
        self.denied, self.strangers, self.requests = set(), False, []
        self.reactions, self.looks = [], []
        self.lock, self.version = threading.RLock(), 0
        self.changed = threading.Condition(self.lock)
        self.history = []

    # What tests use.

    def of(self, kind):
        with self.lock:
            return [copy.deepcopy(obj) for (_, own, _, _), obj in self.objects.items() if own == kind]

    def one(self, kind, name):
        return next((obj for obj in self.of(kind) if obj["metadata"]["name"] == name), None)

    def update(self, kind, name, **fields):
        """Merge fields into an object, as a controller writes its status."""
        with self.lock:
            key = next(key for key in self.objects if (key[1], key[3]) == (kind, name))
            self.store(key, merged(self.objects[key], fields), spoken=False)

    def add(self, obj):
        """As a controller makes an object."""
        with self.lock:
            obj = copy.deepcopy(obj)
            obj["metadata"].setdefault("namespace", "emoji-ldm")
            if obj["kind"] in CLUSTER_WIDE:
                del obj["metadata"]["namespace"]
            meta = obj["metadata"]
            key = (obj["apiVersion"], obj["kind"], meta.get("namespace", ""), meta["name"])
            return self.store(key, obj)

    def remove(self, kind, name):
        with self.lock:
            self._drop(next(key for key in self.objects if (key[1], key[3]) == (kind, name)))

    # What clients ask for.

    def create(self, key, obj):
        self._namespace_of(key)
        if key in self.objects:
            raise Refusal(409, "AlreadyExists", f'{self.resource_name(key)} "{key[3]}" already exists', name=key[3])
        return self.store(key, obj)

    def apply(self, key, obj, manager, *, force=False, dry_run=False):
        """Server-side apply: fields of other managers may only be set to what they are."""
        self._namespace_of(key)
        before, owned = self.objects.get(key, {}), copy.deepcopy(self.owners.get(key, {}))
        fresh = leaves(obj)
        clashes = [path for path, value in fresh.items() for other, paths in owned.items()
                   if other != manager and path in paths and leaves(before).get(path) != value]  # fmt: skip
        if clashes and not force:
            others = sorted(other for other in owned if other != manager)
            words = f'conflict with "{others[0]}": {dotted(clashes[0])}'
            count = f"{len(clashes)} conflict{'s'[: len(clashes) > 1]}"
            raise Refusal(409, "Conflict", f"Apply failed with {count}: {words}", causes=[{
                "reason": "FieldManagerConflict", "message": f'conflict with "{others[0]}"', "field": dotted(path)}
                for path in clashes])  # fmt: skip
        kept = without(before, set(owned.get(manager, ())) - set(fresh) - _of_others(owned, manager))
        if dry_run:
            return merged(kept, obj)
        for path in clashes:  # forced: who loses a field does not own it any more
            for other in set(owned) - {manager}:
                owned[other].discard(path)
        self.owners[key] = {**owned, manager: set(fresh)}
        return self.store(key, merged(kept, obj))

    def take_over(self, kind, name, manager, **fields):
        """Update fields as `kubectl scale` or a controller does, which makes it the owner of those that it changes."""
        with self.lock:
            key = next(key for key in self.objects if (key[1], key[3]) == (kind, name))
            before, after = leaves(self.objects[key]), leaves(merged(self.objects[key], fields))
            changed = {path for path, value in after.items() if before.get(path) != value}
            for paths in self.owners.setdefault(key, {}).values():
                paths -= changed
            self.owners[key].setdefault(manager, set()).update(changed)
        self.update(kind, name, **fields)

    def with_owners(self, key):
        """The object with `managedFields`: this project's manager applies, others update."""
        obj = copy.deepcopy(self.objects[key])
        obj["metadata"]["managedFields"] = [
            {"manager": manager, "operation": "Apply" if manager == "emoji-ldm" else "Update", "fieldsType": "FieldsV1",
             "fieldsV1": field_set(paths)} for manager, paths in self.owners.get(key, {}).items()]  # fmt: skip
        return obj

    def delete(self, key):
        if key not in self.objects:
            raise Refusal(404, "NotFound", f'{self.resource_name(key)} "{key[3]}" not found', name=key[3])
        return self._drop(key)

    def listed(self, version, kind, namespace, query):
        found = [obj for (own, name, place, _), obj in self.objects.items()
                 if (own, name) == (version, kind) and namespace in ("", place) and chosen(obj, query)]  # fmt: skip
        return {"kind": f"{kind}List", "apiVersion": version, "metadata": {"resourceVersion": str(self.version)},
                "items": copy.deepcopy(found)}  # fmt: skip

    def may(self, verb, resource, group, namespace):
        if (verb, resource) in self.denied or (verb, "*") in self.denied:
            place = f' in the namespace "{namespace}"' if namespace else " at the cluster scope"
            message = (f'{resource}{f".{group}" if group else ""} is forbidden: User "ana" cannot {verb} resource '
                       f'"{resource}" in API group "{group}"{place}')  # fmt: skip
            raise Refusal(403, "Forbidden", message)

    def store(self, key, obj, *, spoken=True):
        old = self.objects.get(key)
        obj = copy.deepcopy(obj)
        meta = obj.setdefault("metadata", {})
        if strings := obj.pop("stringData", None):
            obj["data"] = {name: base64.b64encode(text.encode()).decode() for name, text in strings.items()}
        self.version += 1
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        first = {"uid": str(uuid.uuid4()), "creationTimestamp": now, "generation": 0}
        kept = {name: (old or {"metadata": first})["metadata"].get(name) for name in first}
        changed = old is None or old.get("spec") != obj.get("spec")
        meta |= kept | {"resourceVersion": str(self.version), "generation": (kept["generation"] or 0) + changed}
        if old is not None and "status" in old:
            obj.setdefault("status", old["status"])
        self.objects[key] = obj
        self._tell("ADDED" if old is None else "MODIFIED", key)
        for reaction in self.reactions if spoken else ():
            try:
                reaction(self, copy.deepcopy(obj))
            except Refusal:  # of a webhook, which is asked before anything is stored
                self.objects.pop(key) if old is None else self.objects.update({key: old})
                raise
        return copy.deepcopy(self.objects[key])

    def _drop(self, key):
        obj = self.objects.pop(key)
        self.owners.pop(key, None)
        self.version += 1
        self._tell("DELETED", key, obj)
        inside = [other for other in self.objects if key[1] == "Namespace" and other[2] == key[3]]
        uid = obj["metadata"]["uid"]
        owned = [other for other, made in self.objects.items()
                 if any(owner["uid"] == uid for owner in made["metadata"].get("ownerReferences", ()))]  # fmt: skip
        for other in {*inside, *owned}:
            if other in self.objects:
                self._drop(other)
        return obj

    def _tell(self, what, key, obj=None):
        self.history.append((what, key, copy.deepcopy(obj or self.objects[key])))
        self.changed.notify_all()

    def _namespace_of(self, key):
        if key[2] and ("v1", "Namespace", "", key[2]) not in self.objects:
            raise Refusal(404, "NotFound", f'namespaces "{key[2]}" not found', name=key[2], kind="namespaces")

    def resource_name(self, key):
        group = key[0].partition("/")[0] if "/" in key[0] else ""
        return plural(key[1]) + (f".{group}" if group else "")
