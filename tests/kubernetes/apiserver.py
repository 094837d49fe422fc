"""A Kubernetes API server on loopback that a real kubectl may be driven against: REST contract, no controllers.

What it keeps to: discovery; OpenAPI v3 as far as kubectl asks for it; create, get, list (label and field selectors),
watch, server-side apply with field owners and conflicts, merge patch, delete with cascade by owner; resource versions,
generations, uids; Status objects with the API server's own words for what goes wrong; logs that grow. What a kubelet
or an operator would do, tests do: by `update`, or by functions in `reactions`, called after every write, and in
`looks`, before an object is got by its name.
"""

import copy
import json
import threading
import time
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import yaml

VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
CLUSTER_WIDE = {"Namespace", "Node", "PriorityClass", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding",
                "ClusterQueue", "ResourceFlavor", "Cohort", "Topology", "WorkloadPriorityClass", "GatewayClass",
                "CustomResourceDefinition"}  # fmt: skip
BUILT_IN = {
    "v1": ["Namespace", "Pod", "Secret", "ConfigMap", "Service", "ServiceAccount", "PersistentVolumeClaim", "Event",
           "ResourceQuota", "LimitRange", "Node"],
    "apps/v1": ["Deployment", "StatefulSet", "DaemonSet"], "batch/v1": ["Job", "CronJob"],
    "policy/v1": ["PodDisruptionBudget"], "networking.k8s.io/v1": ["NetworkPolicy"],
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
            self._store(key, merged(self.objects[key], fields), spoken=False)

    def add(self, obj):
        """As a controller makes an object."""
        with self.lock:
            obj = copy.deepcopy(obj)
            obj["metadata"].setdefault("namespace", "emoji-ldm")
            if obj["kind"] in CLUSTER_WIDE:
                del obj["metadata"]["namespace"]
            meta = obj["metadata"]
            key = (obj["apiVersion"], obj["kind"], meta.get("namespace", ""), meta["name"])
            return self._store(key, obj)

    def remove(self, kind, name):
        with self.lock:
            self._drop(next(key for key in self.objects if (key[1], key[3]) == (kind, name)))

    # What clients ask for.

    def create(self, key, obj):
        self._namespace_of(key)
        if key in self.objects:
            raise Refusal(409, "AlreadyExists", f'{self._resource(key)} "{key[3]}" already exists', name=key[3])
        return self._store(key, obj)

    def apply(self, key, obj, manager, force):
        """Server-side apply: fields of other managers may only be set to what they are."""
        self._namespace_of(key)
        before, owned = self.objects.get(key, {}), self.owners.setdefault(key, {})
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
        kept = without(before, set(owned.get(manager, ())) - set(fresh))
        owned[manager] = set(fresh)
        return self._store(key, merged(kept, obj))

    def delete(self, key):
        if key not in self.objects:
            raise Refusal(404, "NotFound", f'{self._resource(key)} "{key[3]}" not found', name=key[3])
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

    def _store(self, key, obj, *, spoken=True):
        old = self.objects.get(key)
        obj = copy.deepcopy(obj)
        meta = obj.setdefault("metadata", {})
        if strings := obj.pop("stringData", None):
            import base64

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
            reaction(self, copy.deepcopy(obj))
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

    def _resource(self, key):
        group = key[0].partition("/")[0] if "/" in key[0] else ""
        return plural(key[1]) + (f".{group}" if group else "")


def leaves(obj, path=()):
    """Path -> value of all that an applied object sets; list entries with a name are told apart by it."""
    if path == () and isinstance(obj, dict):
        obj = {name: value for name, value in obj.items() if name not in ("apiVersion", "kind", "status")}
        meta = obj.get("metadata", {})
        obj["metadata"] = {name: value for name, value in meta.items() if name in ("labels", "annotations")}
    if isinstance(obj, dict) and obj:
        return {where: value for name, child in obj.items() for where, value in leaves(child, (*path, name)).items()}
    if isinstance(obj, list) and obj and all(isinstance(entry, dict) and "name" in entry for entry in obj):
        return {where: value for entry in obj
                for where, value in leaves(entry, (*path, f'[name="{entry["name"]}"]')).items()}  # fmt: skip
    return {path: obj}


def dotted(path):
    return "".join(part if part.startswith("[") else f".{part}" for part in path)


def merged(old, new):
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{name: merged(old.get(name), value) for name, value in new.items()}}
    named = [isinstance(side, list) and all(isinstance(e, dict) and "name" in e for e in side) for side in (old, new)]
    if all(named) and old and new:
        before = {entry["name"]: entry for entry in old}
        fresh = {entry["name"]: merged(before.get(entry["name"]), entry) for entry in new}
        return [*fresh.values(), *(entry for name, entry in before.items() if name not in fresh)]
    return copy.deepcopy(new)


def without(obj, paths):
    obj = copy.deepcopy(obj)
    for path in paths:
        place = obj
        for part in path[:-1]:
            if part.startswith("["):
                place = next((entry for entry in place if f'[name="{entry.get("name")}"]' == part), {})
            else:
                place = place.get(part, {}) if isinstance(place, dict) else {}
        if isinstance(place, dict):
            place.pop(path[-1], None)
    return obj


def chosen(obj, query):
    labels = obj["metadata"].get("labels") or {}
    for term in filter(None, query.get("labelSelector", "").split(",")):
        name, sign, value = term.partition("!=") if "!=" in term else term.partition("=")
        if (labels.get(name) == value.lstrip("=")) == (sign == "!="):
            return False
    for term in filter(None, query.get("fieldSelector", "").split(",")):
        name, _, value = term.partition("=")
        place = obj
        for part in name.split("."):
            place = place.get(part, {})
        if place != value:
            return False
    return True


class Visit(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer waits 40 ms for an acknowledgement

    def log_message(self, *_):
        pass

    @property
    def api(self):
        return self.server.api

    def do_GET(self):
        self._answer(self._get)

    def do_POST(self):
        self._answer(self._post)

    def do_PUT(self):
        self._answer(self._put)

    def do_PATCH(self):
        self._answer(self._patch)

    def do_DELETE(self):
        self._answer(self._delete)

    def _answer(self, method):
        url = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        self.api.requests.append((self.command, self.path))
        try:
            if self.api.strangers:
                raise Refusal(401, "Unauthorized", "Unauthorized")
            code, value = method(url.path)
        except Refusal as refusal:
            code, value = refusal.status["code"], refusal.status
        if value is not None:
            self._send(code, value)

    def _send(self, code, value):
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _where(self, path):
        """(group/version, kind, namespace, name, subresource) of a path."""
        parts = path.strip("/").split("/")
        version, rest = ("/".join(parts[1:3]), parts[3:]) if parts[0] == "apis" else (parts[1], parts[2:])
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        if (version, rest[0]) not in self.api.kinds:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        self.resource, self.group = rest[0], version.partition("/")[0] if "/" in version else ""
        kind = self.api.kinds[version, rest[0]]
        return version, kind, namespace, rest[1] if len(rest) > 1 else "", rest[2] if len(rest) > 2 else ""

    def _may(self, verb, namespace):
        self.api.may(verb, self.resource, self.group, namespace)

    def _get(self, path):
        if (known := self._discovery(path)) is not None:
            return 200, known
        version, kind, namespace, name, part = self._where(path)
        if part == "log":
            self._may("get", namespace)
            return self._log(name)
        self._may("get" if name else "list", namespace)
        with self.api.lock:
            if self.query.get("watch") == "true":
                since = int(self.query.get("resourceVersion") or 0)
            elif not name:
                return 200, self.api.listed(version, kind, namespace, self.query)
            else:
                for look in list(self.api.looks):
                    look(self.api, kind)
                key = (version, kind, namespace, name)
                if key not in self.api.objects:
                    raise Refusal(404, "NotFound", f'{self.api._resource(key)} "{name}" not found', name=name)
                return 200, self.api.objects[key]
        return self._watch(version, kind, namespace, since)

    def _post(self, path):
        version, kind, namespace, _, _ = self._where(path)
        self._may("create", namespace)
        obj = json.loads(self.body)
        with self.api.lock:
            return 201, self.api.create((version, kind, namespace, obj["metadata"]["name"]), obj)

    def _put(self, path):
        version, kind, namespace, name, _ = self._where(path)
        self._may("update", namespace)
        with self.api.lock:
            return 200, self.api._store((version, kind, namespace, name), json.loads(self.body))

    def _patch(self, path):
        version, kind, namespace, name, _ = self._where(path)
        self._may("patch", namespace)
        key = (version, kind, namespace, name)
        with self.api.lock:
            if "apply-patch" in self.headers["Content-Type"]:
                new = key not in self.api.objects
                obj = yaml.safe_load(self.body)
                made = self.api.apply(key, obj, self.query["fieldManager"], self.query.get("force") == "true")
                return 201 if new else 200, made
            self.api.owners.setdefault(key, {}).setdefault(self.query.get("fieldManager", "patch"), set()).update(
                leaves(json.loads(self.body)))  # fmt: skip
            return 200, self.api._store(key, merged(self.api.objects[key], json.loads(self.body)))

    def _delete(self, path):
        version, kind, namespace, name, _ = self._where(path)
        self._may("delete" if name else "deletecollection", namespace)
        with self.api.lock:
            if name:
                return 200, self.api.delete((version, kind, namespace, name))
            found = self.api.listed(version, kind, namespace, self.query)
            for obj in found["items"]:
                self.api.delete((version, kind, namespace, obj["metadata"]["name"]))
            return 200, found

    def _log(self, name):
        """The log so far; with follow=true what comes, until a None ends it."""
        if name not in self.api.logs:
            raise Refusal(400, "BadRequest", f'container "main" in pod "{name}" is waiting to start: ContainerCreating')
        self._stream()
        told = 0
        while True:
            with self.api.lock:
                lines = self.api.logs[name][told:]
                if not lines and self.query.get("follow") == "true":
                    self.api.changed.wait(0.05)
            for line in lines:
                if line is None:
                    return 200, self._end()
                self._chunk(f"{line}\n".encode())
            told += len(lines)
            if not lines and self.query.get("follow") != "true":
                return 200, self._end()

    def _watch(self, version, kind, namespace, since):
        self._stream()
        told, deadline = 0, time.monotonic() + 30
        while time.monotonic() < deadline and not self.server.stopping:
            with self.api.lock:
                events = self.api.history[told:]
                told += len(events)
                if not events:
                    self.api.changed.wait(0.1)
            for what, key, obj in events:
                fresh = int(obj["metadata"]["resourceVersion"]) > since or what == "DELETED"
                if key[:2] == (version, kind) and namespace in ("", key[2]) and fresh and chosen(obj, self.query):
                    self._chunk(json.dumps({"type": what, "object": obj}).encode() + b"\n")
        return 200, self._end()

    def _stream(self):
        self.send_response(200)
        self.send_header("Content-Type", "application/json" if "watch" in self.query else "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _end(self):
        self.wfile.write(b"0\r\n\r\n")

    def _discovery(self, path):
        versions = sorted({version for version, _ in self.api.kinds})
        groups = [version for version in versions if "/" in version]
        if path == "/version":
            return {"major": "1", "minor": "35", "gitVersion": "v1.35.2"}
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            entries = [{"groupVersion": version, "version": version.partition("/")[2]} for version in groups]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [
                {"name": entry["groupVersion"].partition("/")[0], "versions": [entry], "preferredVersion": entry}
                for entry in entries]}  # fmt: skip
        if path == "/openapi/v3":
            roots = [_root(version) for version in versions]
            return {"paths": {root: {"serverRelativeURL": f"/openapi/v3/{root}"} for root in roots}}
        if path.startswith("/openapi/v3/"):
            return self._openapi(path.removeprefix("/openapi/v3/"))
        version = path.removeprefix("/apis/") if path.startswith("/apis/") else path.removeprefix("/api/")
        if version not in versions:
            return None
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": [
            {"name": name, "singularName": kind.lower(), "namespaced": kind not in CLUSTER_WIDE, "kind": kind,
             "verbs": VERBS} for (own, name), kind in self.api.kinds.items() if own == version]}  # fmt: skip

    def _openapi(self, root):
        """As much as tells kubectl that fields are checked here, and which parameters there are."""
        paths = {}
        for (version, name), kind in self.api.kinds.items():
            if _root(version) == root:
                group, _, number = version.rpartition("/")
                place = "" if kind in CLUSTER_WIDE else "namespaces/{namespace}/"
                parameters = [{"name": word, "in": "query", "schema": {"type": "string"}}
                              for word in ("fieldValidation", "dryRun", "fieldManager")]  # fmt: skip
                paths[f"/{root}/{place}{name}/{{name}}"] = {"patch": {
                    "parameters": parameters, "x-kubernetes-action": "patch", "responses": {},
                    "x-kubernetes-group-version-kind": {"group": group, "version": number, "kind": kind}}}  # fmt: skip
        return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.35.2"}, "paths": paths}


def _root(version):
    return f"apis/{version}" if "/" in version else f"api/{version}"


@contextmanager
def serving(api, folder):
    """Path of a kubeconfig for the server, while it runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Visit)
    server.daemon_threads, server.api, server.stopping = True, api, False
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    config = {"apiVersion": "v1", "kind": "Config", "current-context": "kind-test",
              "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{server.server_address[1]}"}}],
              "users": [{"name": "ana", "user": {}}],
              "contexts": [{"name": "kind-test", "context": {"cluster": "test", "user": "ana"}}]}  # fmt: skip
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    try:
        yield path
    finally:
        server.stopping = True
        server.shutdown()
        server.server_close()
