"""Kills of every kind at random points of crawls, on real S3 and a Ray of two nodes: nothing lost or doubled."""

import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import psutil
import pytest

from emoji_ldm.config import build
from emoji_ldm.crawl.crawl_state import CrawlState
from emoji_ldm.dataset.table import Table
from emoji_ldm.demo.gallery import Gallery
from emoji_ldm.schemas import CAPTIONS
from emoji_ldm.store import Store
from tests.ray_cluster import RayCluster

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(not shutil.which("chromedriver"), reason="needs chromium and chromedriver"),
]

SEED = 5
VICTIMS = ("commit", "browser", "worker", "driver", "s3", "raylet", "worker", "commit", "driver", "worker")
ROWS_PER_SHARD, NUM_FETCHERS = 8, 2
# With a number, the driver dies in that commit: by its sign before the log entry is written, or just after.
DRIVER = """
import os, signal, sys
from emoji_ldm.dataset.table import Table
real, seen, last = Table.commit, [0], int(sys.argv[2])
def commit(self, *arguments, **options):
    seen[0] += 1
    if seen[0] == -last: os.kill(os.getpid(), signal.SIGKILL)
    done = real(self, *arguments, **options)
    if seen[0] == last: os.kill(os.getpid(), signal.SIGKILL)
    return done
Table.commit = commit
from ray_jobs.cli.main import main
sys.exit(main(["crawl", "-c", sys.argv[1]]) or main(["caption", "-c", sys.argv[1]]))
"""


@pytest.fixture(scope="module")
def gallery():
    with Gallery(num_openmoji=0, limit_per_tag=45, slow_s=5) as opened:
        yield opened


def config_of(gallery, uri):
    crawl = {"site": gallery.url, "tags": ["Blobs", "Panda", "Cat"], "fetch_timeout_s": 2, "num_browsers": 1,
             "rows_per_shard": ROWS_PER_SHARD, "num_fetchers": NUM_FETCHERS, "min_request_interval_s": 0.1}  # fmt: skip
    return build({"store": uri, "crawl": crawl, "caption": {"rows_per_shard": 16}}, where="test")


class Line:
    """One crawl and captioning, killed and started again until it is done."""

    def __init__(self, config, folder, cluster, s3):
        self.config, self.cluster, self.s3 = config, cluster, s3
        self.file, self.log = folder / "config.yaml", folder / "log"
        self.file.write_text(config.to_yaml())
        self.driver, self.killed, self.starts = None, Counter(), 0

    def start(self, last_commit=0):
        self.starts += 1
        environment = {**self.cluster.environment, "RAY_ADDRESS": self.cluster.address}
        with self.log.open("ab") as log:
            self.driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(self.file), str(last_commit)],
                                           stderr=log, stdout=log, env=environment)  # fmt: skip

    def kill(self, victim):
        """Kill it if it is there; whether it was."""
        if victim == "s3":
            self.s3.kill()
            time.sleep(1)
            self.s3.start()
        elif victim == "raylet":
            self.cluster.kill_raylet()
        elif victim == "driver":
            self.driver.kill()
        else:
            processes = self.cluster.workers() if victim == "worker" else browsers(self.cluster.workers())
            if not processes:
                return False
            processes[0].kill()
        self.killed[victim] += 1
        return True


def browsers(workers):
    """Chromium's main processes below these workers."""
    children = [child for worker in workers for child in worker.children(recursive=True)]
    return [child for child in children if "--user-data-dir" in " ".join(child.cmdline()) and "--type=" not in
            " ".join(child.cmdline()) and "chromedriver" not in child.name()]  # fmt: skip


def run_killed(line, victims, chance):
    """Run the line to its end, killing the next victim every few seconds; returns the victims that are left."""
    victims = list(victims)
    while True:
        in_commit = bool(victims) and victims[0] == "commit"
        line.start(chance.choice((-1, 1)) * chance.randint(1, 12) if in_commit else 0)
        while line.driver.poll() is None:
            moment = time.monotonic() + chance.uniform(1.5, 4.5)
            while line.driver.poll() is None and time.monotonic() < moment:
                time.sleep(0.05)
            if victims and victims[0] != "commit" and line.driver.poll() is None:
                try:
                    if line.kill(victims[0]):
                        victims.pop(0)
                except psutil.NoSuchProcess:
                    continue  # it was quicker
        if in_commit and line.driver.returncode == -signal.SIGKILL:
            line.killed["commit"] += 1
            victims.pop(0)
        if line.driver.returncode == 0:
            return victims


def assert_whole(line, gallery):
    """Every URL ended once, images are exactly the good pictures, each with one caption."""
    ledger, truth = CrawlState(line.config), gallery.ground_truth
    kinds = {url: kind for tag in line.config.crawl.tags for kind, urls in truth["tags"][tag].items() for url in urls}
    outcomes = [row for row in ledger.outcomes.read(["url", "kind"]).to_pylist() if row["kind"] == "image"]
    assert Counter(row["url"] for row in outcomes) == Counter(list(kinds))
    images = ledger.images.read(["image_id"])["image_id"].to_pylist()
    originals = {truth["duplicates"].get(url, url) for url, kind in kinds.items() if kind in ("good", "duplicate")}
    assert len(images) == len(set(images)) == len(originals)
    captioned = Table(Store(line.config.store), CAPTIONS).read(["image_id"])["image_id"].to_pylist()
    assert sorted(captioned) == sorted(images)
    assert len(ledger.listings.read(["tile_id"])) == len(ledger.listings.keys())


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("victims", [VICTIMS[:2], VICTIMS * 2], ids=len)
def test_kills_lose_and_double_nothing(victims, gallery, s3_server_of_its_own, tmp_path, monkeypatch):
    for name, value in s3_server_of_its_own.environment.items():
        monkeypatch.setenv(name, value)
    num_kills, chance, killed, number = len(victims), random.Random(SEED), Counter(), 0
    with RayCluster(s3_server_of_its_own.environment) as cluster:
        while victims:
            number += 1
            folder, before = tmp_path / str(number), len(gallery.requests)
            folder.mkdir()
            uri = f"s3://{s3_server_of_its_own.bucket()}/store"
            line = Line(config_of(gallery, uri), folder, cluster, s3_server_of_its_own)
            victims = run_killed(line, victims, chance)
            assert_whole(line, gallery)
            killed += line.killed
            sound = set(gallery.ground_truth["urls"]["good"])
            asked = Counter(gallery.url + request.path for request in gallery.requests[before:])
            redone = sum(asked[url] - 1 for url in sound & asked.keys())
            in_flight = ROWS_PER_SHARD * (NUM_FETCHERS + 1)
            assert redone <= in_flight * (line.starts - 1 + line.killed.total()), "more than the shards in flight"
    assert killed.total() == num_kills
    print(f"\n{killed.total()} kills ({dict(killed)}) in {number} crawls")
