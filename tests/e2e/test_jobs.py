"""RayJobs on a real cluster: one that succeeds, and one that cannot."""

import json

import pytest

from tests.e2e.conftest import kubectl

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


def test_a_mistake_of_the_user_ends_the_job_without_another_try(submit, record):
    """`caption` of a run whose store has no images: no new cluster would find any."""
    status, said, seconds = submit("caption", "e2e-mistake", "store=s3://emoji-ldm/e2e-empty")
    assert status == 1
    assert "has no images; run: emoji-ldm crawl" in said
    assert "Traceback" not in said
    record("submit of a job without input, to its end", seconds)
    job = json.loads(kubectl("get", "rayjob", "e2e-mistake", "--output", "json"))
    assert job["status"]["jobStatus"] == "STOPPED"
    assert not job["status"].get("failed")


def test_a_wrong_option_is_found_before_a_cluster_is_made(submit):
    status, said, seconds = submit("crawl", "e2e-option", "crawl.max_page=3")
    assert status == 2 and "max_page" in said
    assert seconds < 60
