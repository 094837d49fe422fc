"""All stages as one RayJob on a real cluster, with real browsers: from a listing site to a report."""

import pytest

from emoji_ldm.store import Store
from tests.e2e.conftest import forwarded_store, kubectl, until
from tests.e2e.test_crawl import words_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
URI = "s3://emoji-ldm/e2e-pipeline"
# A model of some thousand weights: what is tested is the line, not the pictures.
SMALL = ("autoencoder.steps=30", "train.steps=40", "train.checkpoint_every=20", "generate.num_images=2",
         "caption.engine=metadata")  # fmt: skip


def test_the_pipeline_runs_from_crawl_to_report_in_one_job(submit, site, record, monkeypatch):
    status, said, seconds = submit("pipeline", "e2e-pipeline", *words_of(site, URI), *SMALL)
    assert status == 0, said[-4000:]
    assert "Traceback" not in said
    record("submit pipeline, to its end, s", seconds)
    for stage in ("crawl", "caption", "latents", "train", "generate", "report"):
        assert f"\n{stage}\n" in said, f"{stage} printed no summary"
    with forwarded_store(monkeypatch):
        assert b"<html" in Store(URI).read("runs", "dev", "report.html")
    kubectl("delete", "rayjob", "e2e-pipeline")
    clusters = ("get", "raycluster", "-l", "ray.io/originated-from-cr-name=e2e-pipeline", "-o", "name")
    until(lambda: not kubectl(*clusters).strip(), 120)
