"""Time and memory of a stage, as the report reads them."""

import json
import subprocess
import sys

import psutil
import pytest

from emoji_ldm.config import build
from emoji_ldm.store import Store
from ray_jobs.execution import resource_usage


def test_a_stage_leaves_its_seconds_and_memory_in_the_store(tmp_path):
    config = build({"store": str(tmp_path), "run": "r"}, where="test")
    with resource_usage.measure_stage(config, "crawl") as facts:
        facts["summary"] = {"images": "3"}
    store = Store(str(tmp_path))
    (name,) = store.list("runs", "r", "stages")
    stored = json.loads(store.read("runs", "r", "stages", name))
    assert stored["stage"] == "crawl" and stored["summary"] == {"images": "3"} and name.endswith("-crawl.json")
    assert 0 <= stored["seconds"] < 60 and stored["peak_mb"] > 1


def test_a_stage_that_fails_leaves_nothing(tmp_path):
    config = build({"store": str(tmp_path), "run": "r"}, where="test")
    with pytest.raises(ZeroDivisionError), resource_usage.measure_stage(config, "crawl"):
        raise ZeroDivisionError
    assert Store(str(tmp_path)).list("runs", "r", "stages") == []


def test_a_process_that_has_ended_holds_nothing():
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    found = psutil.Process(process.pid)
    process.wait()
    assert (resource_usage._resident_mb(found), resource_usage._pss_mb(found)) == (0, 0)
    own = psutil.Process()
    assert 0 < resource_usage._pss_mb(own) <= resource_usage._resident_mb(own) * 1.05
