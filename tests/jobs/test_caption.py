"""The caption job on a real local Ray."""

from functools import partial

import pytest

from emoji_ldm.config import load
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import DatasetError, JobError, ModelError
from emoji_ldm.schemas import CAPTIONS, IMAGES
from emoji_ldm.store import Store
from ray_jobs import caption
from tests.emoji_images import blobs, fill_images, image_rows
from tests.fake_caption_engines import DyingEngine
from tests.tiny_qwen import write_qwen


def config(store, *overrides):
    return load(None, [f"store={store.uri}", "caption.rows_per_shard=8", "caption.num_workers=1", *overrides])


def rows_of(store):
    return Table(store, CAPTIONS).read().to_pylist()


@pytest.mark.slow
def test_every_image_gets_its_captions_and_a_second_run_adds_only_what_is_missing(tmp_path):
    store = Store(str(tmp_path))
    ids = fill_images(store, blobs(20))
    summary = caption.run(config(store))
    assert (summary["captioned"], summary["failed"], summary["captioned before"]) == (20, 0, 0)
    assert summary["example 1"].endswith("background.")
    assert sorted(row["image_id"] for row in rows_of(store)) == sorted(ids)
    again = caption.run(config(store))
    assert (again["captioned"], again["captioned before"], again["versions"]) == (0, 20, summary["versions"])
    newest = Table(store, CAPTIONS).history(1)[0]
    assert (newest["stage"], newest["parents"]) == ("caption", '{"images": 2}')
    assert caption.run(config(store, "caption.num_captions=2"))["captioned"] == 20
    assert len({row["caption"] for row in rows_of(store)}) == 40


@pytest.mark.slow
def test_a_broken_image_is_one_row_that_a_manual_caption_or_a_retry_may_replace(tmp_path):
    store = Store(str(tmp_path / "store"))
    rows = image_rows(blobs(9)).to_pylist()
    rows[4]["image"] = {"bytes": b"no picture", "path": ""}
    table, broken = Table(store, IMAGES), rows[4]["image_id"]
    table.commit([table.write_file(image_rows(()).from_pylist(rows, IMAGES.schema))], app_id="all", metadata={})
    (tmp_path / "people.csv").write_text(f"image_id,caption\n{broken},A blob.\n")
    for retry in ("", "failed"):
        people = [f"caption.overrides={tmp_path}/people.csv", f"caption.retry={retry}"]
        summary = caption.run(config(store, *people))
        assert (summary["captioned"], summary["failed"]) == ((0, 1) if retry else (8, 1))
        assert summary["overridden"] == (0 if retry else 1)
        about = sorted((row["engine"], row["status"]) for row in rows_of(store) if row["image_id"] == broken)
        assert about == [("human", "ok"), ("metadata", "failed")]
        assert len(rows_of(store)) == 10


@pytest.mark.slow
@pytest.mark.long
def test_a_dead_engine_is_replaced_and_a_model_that_writes_nonsense_fails_the_job_after_its_rows_are_committed(
    tmp_path,
):
    store, deaths = Store(str(tmp_path / "store")), tmp_path / "deaths"
    fill_images(store, blobs(10))
    model = write_qwen(tmp_path / "model")
    settings = ["caption.engine=qwen2.5-vl", f"caption.model={model}", "caption.max_new_tokens=4"]
    with pytest.raises(JobError, match=r"10 of 10 captions failed.*truncated"):
        caption.run(config(store, *settings))
    assert {(row["engine"], row["attempts"]) for row in rows_of(store)} == {(f"qwen2.5-vl ({model})", 3)}
    deaths.mkdir()
    assert caption.run(config(store), build=partial(DyingEngine, deaths))["captioned"] == 10
    assert len(list(deaths.iterdir())) == 1
    assert len({row["caption_id"] for row in rows_of(store)}) == len(rows_of(store)) == 20


@pytest.mark.slow
def test_a_missing_model_or_dataset_stops_the_job_before_anything_runs(tmp_path):
    store = Store(str(tmp_path))
    with pytest.raises(ModelError, match=r"caption\.engine=metadata"):
        caption.run(config(store, "caption.engine=qwen2.5-vl", f"caption.model={tmp_path}/none"))
    with pytest.raises(DatasetError, match="emoji-ldm crawl"):
        caption.run(config(store))
