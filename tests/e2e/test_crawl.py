"""Crawls of a site within the cluster with real browsers: whole, and whole in spite of kills of every part."""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from urllib.parse import quote

import pytest

from emoji_ldm.config import build
from emoji_ldm.crawl.crawl_state import CrawlState
from emoji_ldm.demo.gallery import Gallery
from tests.e2e import helper_pods
from tests.e2e.conftest import NUM_PER_TAG, forwarded_store, kubectl, pods_of, until
from tests.manifests.render import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
TAGS = ("Blobs", "Panda", "Cat")
SEED = 20


def words_of(site, uri):
    return (f"store={uri}", f"crawl.site={site}", f"crawl.tags=[{', '.join(TAGS)}]", "crawl.rows_per_shard=4",
            "crawl.min_request_interval_s=0.5", "crawl.max_pages=20")  # fmt: skip


def assert_whole(site, uri):
    """Every URL of the site ended once, and the images are exactly its good pictures; returns their number."""
    ledger = CrawlState(build({"store": uri, "crawl": {"site": site, "tags": TAGS}}, where="test"))
    with Gallery(num_openmoji=0, limit_per_tag=NUM_PER_TAG) as gallery:
        truth, own = gallery.ground_truth, gallery.url

    def here(url):
        # Some links hold the address of the image as a parameter.
        return url.replace(own, site).replace(quote(own, safe=""), quote(site, safe=""))

    kinds = {here(url): kind for tag in TAGS for kind, urls in truth["tags"][tag].items() for url in urls}
    outcomes = [row for row in ledger.outcomes.read(["url", "kind"]).to_pylist() if row["kind"] == "image"]
    assert Counter(row["url"] for row in outcomes) == Counter(list(kinds))
    images = ledger.images.read(["image_id"])["image_id"].to_pylist()
    copies = {here(url): here(of) for url, of in truth["duplicates"].items()}
    originals = {copies.get(url, url) for url, kind in kinds.items() if kind in ("good", "duplicate")}
    assert len(images) == len(set(images)) == len(originals)
    return len(images)


def test_a_crawl_with_real_browsers_finds_all_and_nothing_twice(submit, site, record, monkeypatch):
    status, said, seconds = submit("crawl", "e2e-crawl", *words_of(site, "s3://emoji-ldm/e2e-crawl"))
    assert status == 0, said[-3000:]
    record("submit crawl, to its end, s", seconds)
    with forwarded_store(monkeypatch):
        record("images of the crawl", assert_whole(site, "s3://emoji-ldm/e2e-crawl"))


def test_kills_of_every_part_lose_and_double_nothing(submit, site, record, monkeypatch):
    """Worker, store, submitter, operator and head are killed one after the other while a crawl runs."""
    # A store of its own each time: a site is not read twice.
    uri, name, chance = f"s3://emoji-ldm/e2e-kills-{int(time.time())}", "e2e-kills", random.Random(SEED)
    submit("crawl", name, *words_of(site, uri), "--detach")
    words = [sys.executable, "-m", "ray_jobs", "cluster", "logs", name, "--follow"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as follower:
        victims = {
            "worker": lambda: pods_of("emoji-ldm/stage=crawl", "emoji-ldm/role=worker"),
            "store": lambda: pods_of("app.kubernetes.io/name=store"),
            "submitter": lambda: pods_of(f"job-name={name}"),
            "operator": operator_pods,
            "head": lambda: pods_of("emoji-ldm/stage=crawl", "emoji-ldm/role=head"),
        }
        until(lambda: pods_of(f"job-name={name}"))
        killed = []
        for victim, find in victims.items():
            time.sleep(chance.uniform(8, 14))
            if follower.poll() is not None:
                break
            found = until(find, 120)[-1]["metadata"]
            helper_pods.call("delete", "pod", found["name"], "--force", "--grace-period=0", "--wait=false",
                             namespace=found["namespace"])  # fmt: skip
            killed.append(victim)
        said = follower.communicate(timeout=1500)[0]
    assert follower.returncode == 0, said[-4000:]
    assert "Traceback" not in said, said
    record("parts killed during a crawl", len(killed))
    with forwarded_store(monkeypatch):
        assert_whole(site, uri)
    assert len(killed) == len(victims), f"the crawl was faster than the kills: {killed}"


def operator_pods():
    """The Pods of KubeRay; charts and manifests give them different labels."""
    found = json.loads(kubectl("get", "pods", "--all-namespaces", "-o", "json"))["items"]
    return [one for one in found if one["metadata"]["name"].startswith("kuberay-operator")
            and not one["metadata"].get("deletionTimestamp")]  # fmt: skip
