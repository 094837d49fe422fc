"""Upgrades on a real cluster, while clients ask the service for images: of its image, and of the operator."""

import json
import os
import time

import pytest
import yaml

from tests.e2e import helper_pods
from tests.e2e.conftest import OVERLAY, emoji_ldm, objects, until
from tests.e2e.test_crawl import operator_pods
from tests.e2e.test_service import assert_all_answered, load, ready_service, workers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600), pytest.mark.usefixtures("installed")]
RATE = 0.3  # requests per second, which one replica answers on a CPU that it shares


def up(tmp_path, **values):
    """`cluster up` with a site file of these values."""
    site = tmp_path / "site.yaml"
    site.write_text(yaml.safe_dump({"overlay": OVERLAY, **values}))
    status, said, _ = emoji_ldm("cluster", "up", "--site", str(site))
    assert status == 0, said


def test_another_image_under_load_loses_no_request(helpers, record, tmp_path):
    """E2E_NEXT_IMAGE names another image of the service; a copy of today's under another tag will do."""
    image = os.environ.get("E2E_NEXT_IMAGE")
    if not image:
        pytest.skip("E2E_NEXT_IMAGE names no image to upgrade to")
    ready_service()
    load(helpers, "upgrade", RATE, 420)
    began = time.monotonic()
    up(tmp_path, images={"emoji-ldm-gpu": image}, allow=["images-are-those-of-the-list"])
    until(lambda: (found := workers()) and all(pod["spec"]["containers"][0]["image"] == image for pod in found), 900)
    record("upgrade: until only new workers, s", time.monotonic() - began)
    assert_all_answered("upgrade", record)


def test_another_operator_replaces_no_pod_and_loses_no_request(helpers, record):
    """E2E_NEXT_OPERATOR names the image of another version of KubeRay; today's is put back in the end."""
    image = os.environ.get("E2E_NEXT_OPERATOR")
    if not image:
        pytest.skip("E2E_NEXT_OPERATOR names no image to upgrade to")
    ready_service()
    space = operator_pods()[0]["metadata"]["namespace"]
    deployment = json.loads(helper_pods.call("get", "deployment", "kuberay-operator", "-o", "json", namespace=space))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    load(helpers, "operator", RATE, 150)
    running = {pod["metadata"]["uid"] for pod in objects("pods") if pod["status"]["phase"] == "Running"}
    for version in (image, container["image"]):
        began = time.monotonic()
        helper_pods.call(
            "set", "image", "deployment/kuberay-operator", f"{container['name']}={version}", namespace=space
        )
        helper_pods.call("rollout", "status", "deployment/kuberay-operator", "--timeout=240s", namespace=space)
        record(f"operator {version.rpartition(':')[2]} ready, s", time.monotonic() - began)
        time.sleep(20)  # it reconciles everything once when it starts
        assert running <= {pod["metadata"]["uid"] for pod in objects("pods")}
    status, said, _ = emoji_ldm("cluster", "up", "--overlay", OVERLAY)
    assert status == 0, said
    assert_all_answered("operator", record)
