"""A real etcd, API server and scheduler on loopback, where their programs are; no node, so no Pod ever runs.

The programs are looked for in `CLUSTER_BIN`, by default `~/.cache/emoji-cluster/bin`: `etcd`, and `hyperkube`, which is
all programs of Kubernetes in one. Tests that need them are skipped elsewhere.
"""

import json
import os
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

PROGRAMS = Path(os.environ.get("CLUSTER_BIN", Path.home() / ".cache/emoji-cluster/bin"))
START_TIMEOUT_S = 240  # a machine that is busy with other tests


def program(name):
    """The path of a program; the test is skipped where it is not built."""
    if not (PROGRAMS / name).is_file():
        pytest.skip(f"needs {name} in {PROGRAMS}")
    return PROGRAMS / name


class Cluster:
    """kubectl on a control plane."""

    def __init__(self, folder, kubeconfig):
        self.kubeconfig = kubeconfig
        # hyperkube is told by its name which of its programs it is.
        self.kubectl_path = _named(folder, "kubectl")

    def kubectl(self, *arguments, objects=None, check=True):
        text = None if objects is None else yaml.safe_dump_all(objects)
        done = subprocess.run([self.kubectl_path, "--kubeconfig", self.kubeconfig, *arguments], input=text, text=True,
                              capture_output=True, timeout=120, check=False)  # fmt: skip
        assert not check or done.returncode == 0, done.stderr
        return done

    def get(self, kind, name="", namespace="emoji-ldm"):
        found = json.loads(self.kubectl("get", kind, *filter(None, [name]), "-n", namespace, "-o", "json").stdout)
        return found if name else found["items"]


@contextmanager
def control_plane(folder, *more):
    """A `Cluster` while etcd and the API server run; `more` are further programs, such as "kube-scheduler"."""
    etcd, ports, running = program("etcd"), [_free_port() for _ in range(3)], []
    program("hyperkube")
    client, peer, secure = ports
    (folder / "tokens").write_text('secret,admin,admin,"system:masters"\n')
    subprocess.run(["openssl", "genrsa", "-out", folder / "sa.key", "2048"], check=True, capture_output=True)
    try:
        running.append(_start(folder, "etcd", [etcd, "--data-dir", folder / "etcd", "--unsafe-no-fsync",
            f"--listen-client-urls=http://127.0.0.1:{client}", f"--advertise-client-urls=http://127.0.0.1:{client}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}", f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster=default=http://127.0.0.1:{peer}"]))  # fmt: skip
        running.append(_start(folder, "apiserver", [_named(folder, "kube-apiserver"),
            f"--etcd-servers=http://127.0.0.1:{client}", f"--secure-port={secure}", "--bind-address=127.0.0.1",
            f"--cert-dir={folder / 'certificates'}", f"--token-auth-file={folder / 'tokens'}",
            "--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={folder / 'sa.key'}",
            f"--service-account-signing-key-file={folder / 'sa.key'}",
            "--disable-admission-plugins=ServiceAccount"]))  # fmt: skip
        cluster = Cluster(folder, _kubeconfig(folder, secure))
        _wait_until(lambda: cluster.kubectl("get", "--raw", "/readyz", check=False).returncode == 0, folder)
        running += [_start(folder, name, [_named(folder, name), f"--kubeconfig={cluster.kubeconfig}",
            "--leader-elect=false", "--secure-port=0"]) for name in more]  # fmt: skip
        yield cluster
    finally:
        # The API server would wait a minute for clients to leave, and nobody needs its data.
        for process in reversed(running):
            process.kill()
            process.wait()


def _start(folder, name, command):
    with (folder / f"{name}.log").open("w") as log:
        return subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)


def _named(folder, name):
    path = folder / name
    if not path.exists():
        path.symlink_to(program("hyperkube"))
    return path


def _kubeconfig(folder, port):
    path = folder / "kubeconfig"
    cluster = {"server": f"https://127.0.0.1:{port}", "insecure-skip-tls-verify": True}
    path.write_text(yaml.safe_dump({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}], "users": [{"name": "admin", "user": {"token": "secret"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}]}))  # fmt: skip
    return path


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until(is_ready, folder):
    deadline = time.monotonic() + START_TIMEOUT_S
    while not is_ready():
        if time.monotonic() > deadline:
            pytest.fail("\n".join(f"{path.name}: {path.read_text()[-2000:]}" for path in folder.glob("*.log")))
        time.sleep(0.5)
