"""The service on a real cluster grows under load and shrinks after it, without a lost request."""

import time

import pytest
import yaml

from tests.e2e.conftest import OVERLAY, emoji_ldm, pods_of, until
from tests.e2e.test_service import WORKERS, assert_all_answered, load, ready_service, workers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600), pytest.mark.usefixtures("installed")]
BUSY, CALM = 0.7, 0.1  # requests per second
TARGET_WAIT_S = 0.3  # short, so that this load asks for two replicas on a quick machine too
BUSY_S, CALM_S = 240, 720  # a worker without a replica is removed after 420 s


@pytest.fixture
def from_one_to_two(tmp_path):
    """The service with one replica on one worker, which may become two on two; afterwards as before."""
    site = tmp_path / "site.yaml"
    count = {"replicas": 1, "minReplicas": 1, "maxReplicas": 2}
    replicas = {"min_replicas": 1, "max_replicas": 2, "max_replicas_per_node": 1, "target_wait_s": TARGET_WAIT_S}
    values = {"overlay": OVERLAY, "workers": {"serve": {"serve": count}}, "config": {"serve": replicas}}
    site.write_text(yaml.safe_dump(values))
    status, said, _ = emoji_ldm("cluster", "up", "--site", str(site))
    assert status == 0, said
    try:
        ready_service()
        until(lambda: len(workers()) == 1, 900)
        yield
    finally:
        status, said, _ = emoji_ldm("cluster", "up", "--overlay", OVERLAY)
    assert status == 0, said


def test_scaling_out_and_in_loses_no_request(helpers, from_one_to_two, record):
    load(helpers, "busy", BUSY, BUSY_S)
    began = time.monotonic()
    until(lambda: len(workers()) == 2, BUSY_S)
    record("from load to a second worker with a replica, s", time.monotonic() - began)
    assert_all_answered("busy", record)
    load(helpers, "calm", CALM, CALM_S)
    began = time.monotonic()
    until(lambda: len(workers()) == 1, CALM_S)
    record("from calm to one worker, s", time.monotonic() - began)
    assert_all_answered("calm", record)
    until(lambda: len(pods_of(*WORKERS)) == 1, 300)
