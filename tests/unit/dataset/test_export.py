"""Exports open in the programs that they are made for, and are whole or not there at all."""

import csv
import io
import json
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from emoji_ldm.dataset.export import FORMATS, export
from emoji_ldm.dataset.formats import huggingface
from emoji_ldm.dataset.formats.export_options import ExportOptions
from emoji_ldm.dataset.split import assign_part
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import ConfigError, DatasetError, StoreError
from emoji_ldm.schemas import CAPTIONS, IMAGES
from emoji_ldm.store import Store
from tests.caption_rows import fill_captions
from tests.emoji_images import blobs, fill_images

SPLITS = {"train": 0.7, "val": 0.3}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Thirty emoji in three files; the first two have captions."""
    store = Store(str(tmp_path_factory.mktemp("export") / "store"))
    ids = fill_images(store, blobs(30), files=3)
    captions = [(ids[0], "metadata", "measured"), (ids[0], "qwen2.5-vl", "seen"), (ids[0], "human", "by hand"),
                (ids[1], "metadata", "measured\ttoo"), (ids[1], "qwen2.5-vl", "seen too")]  # fmt: skip
    return Table(store, IMAGES), fill_captions(store, captions)


def run(tables, target, **options):
    return export(*tables, ExportOptions(target=str(target), **options))


def open_dataset(folder, cache):
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset(str(folder), cache_dir=str(cache))


def pixels(png):
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGBA"))


def test_the_reference_layout_flattens_on_the_chosen_colour(tables, tmp_path):
    facts = run(tables, tmp_path / "out", format="csv", background="#ff0000")
    rows = list(csv.DictReader((tmp_path / "out/metadata.csv").open(encoding="utf-8")))
    assert list(rows[0]) == ["file_name", "image_url", "image_title", "tag", "prompt"]
    assert (len(rows), facts["images"], facts["with captions"]) == (30, 30, 2)
    assert {row["file_name"] for row in rows} >= {"images/Blobs_0000000.jpg", "images/Blobs_0000001.jpg"}
    assert [row["prompt"] for row in rows[:3]] == ["by hand", "seen too", ""]
    with Image.open(tmp_path / "out" / rows[0]["file_name"]) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB") and image.getpixel((0, 0))[1] < 10  # red, not black


def test_png_keeps_alpha_and_without_captions_there_is_no_prompt(tables, tmp_path):
    images = tables[0]
    run((images, Table(Store(str(tmp_path / "empty")), CAPTIONS)), tmp_path / "out", format="csv", images="png")
    rows = list(csv.DictReader((tmp_path / "out/metadata.csv").open(encoding="utf-8")))
    assert list(rows[0]) == ["file_name", "image_url", "image_title", "tag"]
    row = next(batch for batch in images.batches(["image"], batch_rows=1)).to_pylist()[0]
    assert (tmp_path / "out" / rows[0]["file_name"]).read_bytes() == row["image"]["bytes"]


def test_records_hold_captioned_images_only(tables, tmp_path):
    facts = run(tables, tmp_path / "json", format="json")
    assert facts["left out (no good caption)"] == 28
    records = json.loads((tmp_path / "json/records.json").read_text())
    assert [record["caption"] for record in records] == ["by hand", "seen too"]
    run(tables, tmp_path / "txt", format="txt")
    lines = (tmp_path / "txt/records.txt").read_text().splitlines()
    assert lines == [f"{record['link']}\t{record['caption']}" for record in records]


def test_datasets_opens_the_parquet_as_pictures_within_the_viewers_limits(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface, "ROWS_PER_SHARD", 10)
    facts = run(tables, tmp_path / "out", format="hf", splits=SPLITS, license="cc-by-4.0")
    loaded = open_dataset(tmp_path / "out", tmp_path / "cache")
    assert {part: rows.num_rows for part, rows in loaded.items()} == facts["parts"]
    ids = [row["image_id"] for row in tables[0].read(["image_id"]).to_pylist()]
    rows = {row["image_id"]: row for part in loaded.values() for row in part}
    assert type(next(iter(loaded.values())).features["image"]).__name__ == "Image"
    for row in tables[0].read(["image_id", "image"]).to_pylist():
        assert (np.asarray(rows[row["image_id"]]["image"]) == pixels(row["image"]["bytes"])).all()
    best = next(row for row in rows.values() if row["caption"] == "by hand")
    assert best["captions"] == ["by hand"], "where people wrote a caption, it is the only one"
    assert rows[ids[1]]["captions"] == ["seen too", "measured\ttoo"], "measured sentences last"
    assert sum(row["caption"] is None for row in rows.values()) == 28
    files = sorted(path.name for path in (tmp_path / "out/data").iterdir())
    assert len(files) > 3 and files[0].startswith("train-00000-of-0000") and files[-1].startswith("val-")
    for path in (tmp_path / "out/data").iterdir():
        metadata = pq.read_metadata(path)
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        assert all(group.num_rows <= 100 and group.total_byte_size < 100e6 for group in groups)
        assert all(group.column(0).has_offset_index for group in groups)


def test_webdataset_is_the_same_to_the_byte_each_time_and_opens(tables, tmp_path):
    for name in ("one", "two"):
        run(tables, tmp_path / name, format="webdataset", captioned=True, splits=SPLITS)
    tars = sorted((tmp_path / "one").glob("*.tar"))
    assert tars and all(path.read_bytes() == (tmp_path / "two" / path.name).read_bytes() for path in tars)
    with tarfile.open(tars[0]) as tar:
        names = tar.getnames()
        assert [name.partition(".")[2] for name in names[:3]] == ["png", "json", "txt"]
        assert assign_part(names[0].partition(".")[0], SPLITS) == tars[0].name.partition("-")[0]
    assert sum(part.num_rows for part in open_dataset(tmp_path / "one", tmp_path / "cache").values()) == 2


def test_an_export_that_breaks_off_leaves_nothing_that_looks_whole(tables, tmp_path, monkeypatch):
    def broken(place, rows, plan):
        place.write(next(rows)["image"]["bytes"], "half.png")
        raise KeyboardInterrupt

    monkeypatch.setitem(FORMATS, "hf", broken)
    with pytest.raises(KeyboardInterrupt):
        run(tables, tmp_path / "out", format="hf")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".out.partial").mkdir()  # what a kill -9 leaves
    (tmp_path / ".out.partial" / "half.png").touch()
    run(tables, tmp_path / "out", format="txt")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".export.json", "records.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_bad_exports_are_refused_in_one_line(tables, tmp_path):
    with pytest.raises(ConfigError, match=r"unknown export format 'webdata'; did you mean 'webdataset'\?"):
        run(tables, tmp_path / "out", format="webdata")
    with pytest.raises(ConfigError, match="'blurple' is no colour"):
        run(tables, tmp_path / "out", format="csv", background="blurple")
    with pytest.raises(ConfigError, match=r"add up to 0\.5"):
        run(tables, tmp_path / "out", format="csv", splits={"train": 0.5})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(ConfigError, match="exists and is not empty"):
        run(tables, tmp_path / "full", format="csv")
    with pytest.raises(StoreError, match=r"export to .* failed"):
        run(tables, tmp_path / "full" / "mine.txt" / "below", format="csv")
    nothing = Store(str(tmp_path / "nothing"))
    with pytest.raises(DatasetError, match="no images to export"):
        run((Table(nothing, IMAGES), Table(nothing, CAPTIONS)), tmp_path / "out", format="csv")
    for options, why in (({"format": "json"}, "format json"), ({"format": "hf", "captioned": True}, "--captioned")):
        with pytest.raises(DatasetError, match=f"no good caption, which {why} needs"):
            run((tables[0], Table(nothing, CAPTIONS)), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
