"""The caption job on a real local Ray."""

import pytest

from emoji_ldm.config import load
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import DatasetError, JobError, ModelError
from emoji_ldm.records import CAPTIONS, IMAGES
from emoji_ldm.store import Store
from ray_jobs import caption
from tests.emoji import blobs, fill_images, image_rows
from tests.qwen import write_qwen

pytestmark = pytest.mark.slow


def config(store, *overrides):
    return load(None, [f"store={store.uri}", "caption.rows_per_shard=8", "caption.num_workers=1", *overrides])


def rows_of(store):
    return Table(store, CAPTIONS).read().to_pylist()


def test_every_image_gets_one_caption_and_a_second_run_does_nothing(tmp_path):
    store = Store(str(tmp_path))
    ids = fill_images(store, blobs(20))
    summary = caption.run(config(store))
    assert (summary["captioned"], summary["failed"], summary["captioned before"]) == (20, 0, 0)
    assert summary["example 1"].endswith("background.")
    assert sorted(row["image_id"] for row in rows_of(store)) == sorted(ids)
    again = caption.run(config(store))
    assert (again["captioned"], again["captioned before"]) == (0, 20)
    assert again["versions"] == summary["versions"]
    newest = Table(store, CAPTIONS).history(1)[0]
    assert (newest["stage"], newest["parents"]) == ("caption", '{"images": 2}')


def test_new_images_alone_are_captioned_and_a_broken_one_is_one_row(tmp_path):
    store = Store(str(tmp_path))
    fill_images(store, blobs(9), files=1)
    caption.run(config(store))
    fresh = image_rows(blobs(18)).slice(9).to_pylist()
    fresh[4]["image"] = {"bytes": b"no picture", "path": ""}
    table = Table(store, IMAGES)
    table.commit([table.write_file(image_rows(()).from_pylist(fresh, IMAGES.schema))], app_id="more", metadata={})
    summary = caption.run(config(store, "caption.max_failed=0.2"))
    assert (summary["captioned"], summary["failed"], summary["captioned before"]) == (8, 1, 9)
    failed = [row for row in rows_of(store) if row["status"] == "failed"]
    assert [row["image_id"] for row in failed] == [fresh[4]["image_id"]]


def test_a_model_that_writes_nonsense_fails_the_job_after_its_rows_are_kept(tmp_path):
    store = Store(str(tmp_path / "store"))
    fill_images(store, blobs(10))
    model = write_qwen(tmp_path / "model")
    settings = ["caption.engine=qwen2.5-vl", f"caption.model={model}", "caption.max_new_tokens=4"]
    with pytest.raises(JobError, match=r"10 of 10 images got no good caption.*truncated"):
        caption.run(config(store, *settings))
    rows = rows_of(store)
    assert len({row["image_id"] for row in rows}) == len(rows) == 10
    assert {row["engine"] for row in rows} == {f"qwen2.5-vl ({model})"}
    assert caption.run(config(store))["captioned"] == 10  # another engine, other captions
    assert len(rows_of(store)) == 20


def test_a_missing_model_or_data_set_stops_the_job_before_anything_runs(tmp_path):
    store = Store(str(tmp_path))
    with pytest.raises(ModelError, match=r"caption\.engine=metadata"):
        caption.run(config(store, "caption.engine=qwen2.5-vl", f"caption.model={tmp_path}/none"))
    with pytest.raises(DatasetError, match="emoji-ldm crawl"):
        caption.run(config(store))
