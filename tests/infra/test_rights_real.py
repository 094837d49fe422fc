"""Every stage and the service on a real S3 server, each with the rights of its own ServiceAccount and no more."""

import asyncio
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from emoji_ldm.dataset.table import Table
from emoji_ldm.schemas import TABLES
from emoji_ldm.serve.bulk.batch_files import UploadStore
from emoji_ldm.serve.bulk.job_runner import JobRunner
from emoji_ldm.serve.bulk.job_state import JobState
from emoji_ldm.serve.bulk.job_store import JobStore
from emoji_ldm.store import Store
from ray_jobs.pipeline import NEXT_COMMANDS
from tests.infra.guard import Guard
from tests.infra.test_rights import may
from tests.s3.conftest import s3_server  # noqa: F401 - the fixture
from tests.s3.test_pipeline import ROOT, SMALL
from tests.seaweedfs_server import free_port
from tests.unit.serve.bulk.instant_backend import InstantBackend, make_job

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
SCRIPT = """
import sys
from emoji_ldm.demo.gallery import Gallery
from ray_jobs.cli.main import main
with Gallery(num_openmoji=0, limit_per_tag=10, port=int(sys.argv[1])) as site:
    sys.exit(main([*sys.argv[2].split(), "--config", "demo", "crawl.site=" + site.url, *sys.argv[3:]]))
"""


def run(command, endpoint, uri, port, folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "AWS_ENDPOINT_URL": endpoint}
    words = [sys.executable, "-c", SCRIPT, str(port), command, f"store={uri}", *SMALL]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_each_stage_works_with_its_own_rights_alone(s3_server, tmp_path: Path, monkeypatch):  # noqa: F811
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    uri, port = f"s3://{s3_server.bucket()}/store", free_port()
    for stage in NEXT_COMMANDS:
        command = {"autoencoder": "train autoencoder"}.get(stage, stage)
        with Guard(s3_server.endpoint, partial(may, stage)) as guard:
            done = run(command, guard.url, uri, port, tmp_path)
        assert done.returncode == 0, (stage, sorted(guard.refused), done.stderr[-3000:])
        assert not guard.refused, stage
    assert all(Table(Store(uri), spec).count() for spec in TABLES.values())


@pytest.mark.slow
def test_the_service_works_off_bulk_jobs_with_its_own_rights_alone(s3_server, tmp_path: Path, monkeypatch):  # noqa: F811
    (tmp_path / "lines.jsonl").write_bytes(b"one\n" * 2_000_000)  # two parts of an upload
    with Guard(s3_server.endpoint, partial(may, "serve")) as guard:
        for name, value in {**s3_server.environment, "AWS_ENDPOINT_URL": guard.url}.items():
            monkeypatch.setenv(name, value)
        store = Store(f"s3://{s3_server.bucket()}/store")
        jobs, job, files = JobStore(store), make_job(store, 20), UploadStore(store)
        asyncio.run(JobRunner(store, InstantBackend(), poll_s=0.1).run(until_idle=True))
        assert JobState(jobs, job).progress().status == "completed"
        with (tmp_path / "lines.jsonl").open("rb") as source:
            file = files.add("ann", "lines.jsonl", source)
        assert b"".join(files.read_range(file, 0, 4)) == b"one\n"
        files.delete(file)
        jobs.delete(job)
        assert not guard.refused


@pytest.mark.slow
def test_a_stage_with_another_s_rights_is_refused(s3_server, tmp_path: Path, monkeypatch):  # noqa: F811
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    uri = f"s3://{s3_server.bucket()}/store"
    with Guard(s3_server.endpoint, partial(may, "serve")) as guard:
        done = run("crawl", guard.url, uri, free_port(), tmp_path)
    assert done.returncode != 0
    assert any("tables/listings/" in key for _, key in guard.refused), sorted(guard.refused)
