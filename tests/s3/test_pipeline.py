"""Every stage on a real S3 server, on a small gallery: crawl to report, then once more with nothing left to do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from emoji_ldm.dataset import checkpoints
from emoji_ldm.dataset.table import Table
from emoji_ldm.schemas import TABLES
from emoji_ldm.store import Store
from tests.seaweedfs_server import free_port

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
SMALL = ["autoencoder.steps=6", "autoencoder.checkpoint_every=3", "train.steps=6", "train.checkpoint_every=3",
         "train.sample_every=null", "generate.steps=3", "generate.num_images=1", "crawl.tags=[Faces, Hearts]",
         "crawl.fetch_timeout_s=2", "train.num_workers=1", "autoencoder.num_workers=1"]  # fmt: skip
# The command itself, against a small site.
SCRIPT = """
import sys
from emoji_ldm.demo.gallery import Gallery
from ray_jobs.cli.main import main
with Gallery(num_openmoji=0, limit_per_tag=30, port=int(sys.argv[1])) as site:
    sys.exit(main(["pipeline", "--config", "demo", "crawl.site=" + site.url, *sys.argv[2:]]))
"""


def pipeline(uri, port, folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", SCRIPT, str(port), f"store={uri}", *SMALL]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=800)


@pytest.mark.slow
def test_the_pipeline_passes_end_to_end_on_s3(s3_uri, tmp_path):
    port = free_port()
    first = pipeline(s3_uri, port, tmp_path)
    assert first.returncode == 0, first.stderr[-3000:]
    store = Store(s3_uri)
    tables = {name: Table(store, spec) for name, spec in TABLES.items()}
    for name, table in tables.items():
        assert table.count() == len(table.keys()) > 0, f"{name}: rows are distinct"
    images = tables["images"].keys()
    assert len(images) >= 40
    assert set(tables["captions"].read(["image_id"]).column(0).to_pylist()) == images
    assert set(tables["latents"].read(["image_id"]).column(0).to_pylist()) == images
    lineage = tables["captions"].history(1)[0]
    assert json.loads(lineage["parents"]).keys() == {"images"} and json.loads(lineage["config"])["run"] == "demo"
    assert checkpoints.newest_checkpoint(store, "demo", "unet").step == 6
    assert (tmp_path / "runs/demo/report.html").stat().st_size > 50_000
    assert store.exists("runs", "demo", "report.html")
    assert not list(tmp_path.glob("data*")), "nothing went to a local store"

    before = {name: table.version for name, table in tables.items()}
    second = pipeline(s3_uri, port, tmp_path)
    assert second.returncode == 0, second.stderr[-3000:]
    assert {name: Table(store, spec).version for name, spec in TABLES.items()} == before
