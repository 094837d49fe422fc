"""A set of images made by the service, while parts of the cluster are killed: each image once, none lost."""

import random
import time

import pytest

from tests.e2e import helper_pods
from tests.e2e.conftest import OVERLAY, pods_of, secret, until
from tests.e2e.test_crawl import operator_pods
from tests.e2e.test_service import URL, WORKERS, ready_service

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400), pytest.mark.usefixtures("installed")]
SETS = URL.replace("/v1/images/generations", "/v1/emoji-sets")
NUM_IMAGES = 100  # of one page
SEED = 21


def test_a_set_is_whole_whatever_is_killed_while_it_is_made(helpers, record):
    ready_service()
    client = helper_pods.pod("bulk", OVERLAY, "bulk.py", SETS, NUM_IMAGES, env={"KEY": secret("serve-keys", "first")})
    helper_pods.call("delete", "pod", "bulk", "--ignore-not-found")
    helper_pods.call("create", "-f", "-", objects=[client])
    helper_pods.wait_for_log("bulk", "progress", 120)
    began, chance = time.monotonic(), random.Random(SEED)
    for find in (operator_pods, lambda: pods_of("app.kubernetes.io/name=store"), lambda: pods_of(*WORKERS)):
        time.sleep(chance.uniform(3, 6))
        found = until(find, 120)[0]["metadata"]
        helper_pods.call("delete", "pod", found["name"], "--force", "--grace-period=0", "--wait=false",
                         namespace=found["namespace"])  # fmt: skip
    told = helper_pods.results_of("bulk", 1800)
    record("set of images with three kills, s", time.monotonic() - began)
    (end,) = (one["end"] for one in told if "end" in one)
    assert end["status"] == "completed" and end["counts"]["completed"] == NUM_IMAGES, end
    (items,) = (one["items"]["data"] for one in told if "items" in one)
    assert len({one["item_id"] for one in items}) == len(items) == NUM_IMAGES
    finished = sum(one.get("progress", {}).get("counts", {}).get("completed", 0) < NUM_IMAGES for one in told)
    record("answers while it was unfinished", finished)
