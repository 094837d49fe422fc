"""A Kubernetes API server on loopback that a real kubectl may be driven against: the HTTP side of `apiserver`.

What it keeps to: discovery; OpenAPI v3 as far as kubectl asks for it; get, list, watch, create, put, server-side apply,
merge patch and delete; Status objects for what goes wrong; logs that are followed.
"""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.kubernetes.apiserver import CLUSTER_WIDE, Refusal
from tests.kubernetes.object_fields import chosen, leaves, merged

VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


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
                    raise Refusal(404, "NotFound", f'{self.api.resource_name(key)} "{name}" not found', name=name)
                return 200, self.api.with_owners(key)
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
            return 200, self.api.store((version, kind, namespace, name), json.loads(self.body))

    def _patch(self, path):
        version, kind, namespace, name, _ = self._where(path)
        self._may("patch", namespace)
        key = (version, kind, namespace, name)
        with self.api.lock:
            if "apply-patch" in self.headers["Content-Type"]:
                new = key not in self.api.objects
                obj = yaml.safe_load(self.body)
                made = self.api.apply(key, obj, self.query["fieldManager"], force=self.query.get("force") == "true",
                                      dry_run="dryRun" in self.query)  # fmt: skip
                return 201 if new else 200, made
            self.api.owners.setdefault(key, {}).setdefault(self.query.get("fieldManager", "patch"), set()).update(
                leaves(json.loads(self.body)))  # fmt: skip
            return 200, self.api.store(key, merged(self.api.objects[key], json.loads(self.body)))

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
