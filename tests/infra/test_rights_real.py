"""Every stage on a real S3 server, each with the rights of its own ServiceAccount and no more."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from emoji_ldm.dataset.table import Table
from emoji_ldm.records import TABLES
from emoji_ldm.store import Store
from ray_jobs.stages import NEXT
from tests.infra.guard import Guard
from tests.infra.test_rights import may
from tests.s3.conftest import seaweed  # noqa: F401 - the fixture
from tests.s3.test_pipeline import ROOT, SMALL
from tests.seaweed import free_port

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]
SCRIPT = """
import sys
from emoji_ldm.demo.gallery import Gallery
from ray_jobs.cli import main
with Gallery(num_openmoji=0, limit_per_tag=30, port=int(sys.argv[1])) as site:
    sys.exit(main([*sys.argv[2].split(), "--config", "demo", "crawl.site=" + site.url, *sys.argv[3:]]))
"""


def run(command, endpoint, uri, port, folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "AWS_ENDPOINT_URL": endpoint}
    words = [sys.executable, "-c", SCRIPT, str(port), command, f"store={uri}", *SMALL]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_each_stage_works_with_its_own_rights_alone(seaweed, tmp_path: Path, monkeypatch):  # noqa: F811
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    uri, port = f"s3://{seaweed.bucket()}/store", free_port()
    for stage in NEXT:
        command = {"autoencoder": "train autoencoder"}.get(stage, stage)
        with Guard(seaweed.endpoint, partial(may, stage)) as guard:
            done = run(command, guard.url, uri, port, tmp_path)
        assert done.returncode == 0, (stage, sorted(guard.refused), done.stderr[-3000:])
        assert not guard.refused, stage
    assert all(Table(Store(uri), spec).count() for spec in TABLES.values())


def test_a_stage_with_another_s_rights_is_refused(seaweed, tmp_path: Path, monkeypatch):  # noqa: F811
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    uri = f"s3://{seaweed.bucket()}/store"
    with Guard(seaweed.endpoint, partial(may, "serve")) as guard:
        done = run("crawl", guard.url, uri, free_port(), tmp_path)
    assert done.returncode != 0
    assert any(kind == "write" and "tables/" in key for kind, key in guard.refused), sorted(guard.refused)
