"""Imports: items of other datasets become images, outcomes and captions, once, wherever an import is killed."""

import io

import pytest
from PIL import Image

from emoji_ldm.config import Config
from emoji_ldm.crawl import dataset_import
from emoji_ldm.crawl.dataset_import import import_dataset
from emoji_ldm.dataset.export import export
from emoji_ldm.dataset.formats.export_options import ExportOptions
from emoji_ldm.dataset.table import Table
from emoji_ldm.images.normalize import normalize_image
from emoji_ldm.schemas import CAPTIONS, IMAGES, OUTCOMES
from emoji_ldm.store import Store
from tests.caption_rows import fill_captions
from tests.emoji_images import blobs, fill_images
from tests.unit.crawl.import_target import config, table


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A store of twelve emoji, three of them captioned, and its exports."""
    folder = tmp_path_factory.mktemp("imports")
    store = Store(str(folder / "store"))
    ids = fill_images(store, blobs(12))
    tables = (
        Table(store, IMAGES),
        fill_captions(store, [(image_id, "human", f"a {image_id[:4]}") for image_id in ids[:3]]),
    )
    for name in ("hf", "webdataset", "csv"):
        export(*tables, ExportOptions(name, str(folder / name), images="png" if name == "csv" else "jpg"))
    return folder, tables[0].read(["image_id", "title", "tags", "source_url", "page_url"]).to_pylist()


@pytest.mark.parametrize("name", ["hf", "webdataset", "csv"])
def test_an_export_is_imported_with_the_same_images_and_captions(exported, tmp_path, name):
    folder, rows = exported
    target = config(tmp_path)
    summary = import_dataset(target, str(folder / name))
    assert (summary["pictures"], summary["captions"], summary["images"]) == ({"kept": 12}, 3, 12)
    back = table(target, IMAGES).read(["image_id", "title", "tags", "source_url", "page_url"]).to_pylist()
    columns = ("image_id", "title", "source_url") if name == "csv" else tuple(rows[0])  # csv has no more than these
    contents = (
        {row["image_id"]: tuple(row[column] for column in columns) for row in several} for several in (rows, back)
    )
    assert next(contents) == next(contents)
    captions = table(target, CAPTIONS).read(["image_id", "caption", "engine"]).to_pylist()
    assert all(row["caption"] == f"a {row['image_id'][:4]}" and row["engine"] == "import" for row in captions)
    versions = summary["versions"]
    again = import_dataset(target, str(folder / name))
    assert (again["pictures"], again["captions"], again["versions"]) == ({"there before": 12}, 0, versions)


def test_a_killed_import_that_is_repeated_duplicates_and_loses_nothing(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_import, "SHARD_ITEMS", 5)
    target, (folder, rows) = config(tmp_path), exported
    commit = Table.commit
    for point in range(1, 9):  # each commit of the import: images, outcomes, captions of three shards

        def dies(self, *arguments, left=[point], **options):  # noqa: B006 - one counter per death
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            return commit(self, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(Table, "commit", dies)
            try:
                import_dataset(target, str(folder / "hf"))
            except KeyboardInterrupt:
                continue
            break
    import_dataset(target, str(folder / "hf"))
    for spec, number in ((IMAGES, 12), (OUTCOMES, 12), (CAPTIONS, 3)):
        keys = table(target, spec).read([spec.key]).column(0).to_pylist()
        assert len(keys) == len(set(keys)) == number, spec.name
    assert table(target, IMAGES).keys() == {row["image_id"] for row in rows}


def test_a_folder_is_imported_with_captions_and_bad_files_are_outcomes(tmp_path):
    folder = tmp_path / "mine" / "Blobs"
    folder.mkdir(parents=True)
    picture = blobs(1)[0].data
    (folder / "happy_blob.png").write_bytes(picture)
    (folder / "happy_blob.txt").write_text("a happy blob\n")
    with Image.open(io.BytesIO(picture)) as image:
        image.convert("RGBA").save(folder / "the_same.webp", lossless=True, exact=True)
    (folder / "page.png").write_bytes(b"<html>")
    (folder / ".hidden.png").write_bytes(picture)
    target = config(tmp_path)
    summary = import_dataset(target, str(tmp_path / "mine"))
    assert summary["pictures"] == {"kept": 1, "duplicate-of": 1, "not-an-image": 1}
    (row,) = table(target, IMAGES).read(["title", "tags", "source_url"]).to_pylist()
    assert (row["title"], row["tags"]) == ("happy blob", ["Blobs"]) and row["source_url"].startswith("file:///")
    assert table(target, CAPTIONS).read(["caption"])["caption"].to_pylist() == ["a happy blob"]


def test_different_images_of_one_origin_are_all_kept_with_their_own_captions(tmp_path):
    pictures, folder = blobs(3), tmp_path / "in"
    folder.mkdir()
    for name, picture in zip("abc", pictures, strict=True):
        (folder / f"{name}.png").write_bytes(picture.data)
    (folder / "d.png").write_bytes(pictures[0].data)
    rows = ["a.png,https://s/sheet,", *(f"{name}.png,https://s/sheet,a {name}" for name in "bcd")]
    (folder / "metadata.csv").write_text("\n".join(["file_name,url,caption", *rows]))
    target = config(tmp_path)
    assert import_dataset(target, str(folder))["pictures"] == {"kept": 3, "there before": 1}
    ids = [normalize_image(picture.data, size_px=128, max_px=4096).image_id for picture in pictures]
    images = table(target, IMAGES).read(["image_id", "source_url"]).to_pylist()
    assert {row["image_id"]: row["source_url"].rpartition("/")[2] for row in images} == dict(
        zip(ids, ("sheet", "b.png", "c.png"), strict=True)
    )
    captions = table(target, CAPTIONS).read(["image_id", "caption"]).to_pylist()
    assert {row["image_id"]: row["caption"] for row in captions} == dict(zip(ids, ("a d", "a b", "a c"), strict=True))
    assert import_dataset(target, str(folder))["pictures"] == {"there before": 4}


def test_items_without_an_image_are_retried_and_written_only_if_their_outcome_changes(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "metadata.csv").write_text("file_name,url\na.png,https://s/a.png\nb.png,https://s/b.png\n")
    (folder / "b.png").write_bytes(b"<html>")
    target = config(tmp_path)
    assert import_dataset(target, str(folder))["pictures"] == {"dead": 1, "not-an-image": 1}
    version = table(target, OUTCOMES).version
    assert import_dataset(target, str(folder))["pictures"] == {"there before": 2}
    assert table(target, OUTCOMES).version == version
    (folder / "a.png").write_bytes(blobs(1)[0].data)
    assert import_dataset(target, str(folder))["pictures"] == {"kept": 1, "there before": 1}
    rows = table(target, OUTCOMES).read(["url", "outcome"]).to_pylist()
    assert sorted((row["url"][-5:], row["outcome"]) for row in rows) == [("a.png", "kept"), ("b.png", "not-an-image")]
    images = table(target, IMAGES)
    assert images.count() == 1
    images.upsert([], images.keys(), app_id="restored to before", metadata={})
    assert import_dataset(target, str(folder))["pictures"] == {"kept": 1, "there before": 1}
    assert table(target, IMAGES).count() == 1


def test_too_large_and_missing_files_are_outcomes(tmp_path):
    (tmp_path / "in" / "images").mkdir(parents=True)
    (tmp_path / "in" / "images" / "a.png").write_bytes(blobs(1)[0].data)
    (tmp_path / "in" / "metadata.csv").write_text("file_name,tag\na.png,Cat\ngone.png,Cat\n")
    target = Config(store=str(tmp_path / "target"), crawl={"max_bytes": 100})
    assert import_dataset(target, str(tmp_path / "in"))["pictures"] == {"dead": 1, "too-large": 1}
    reasons = set(table(target, OUTCOMES).read(["reason"])["reason"].to_pylist())
    assert "the file is missing" in reasons and any("crawl.max_bytes is 100" in reason for reason in reasons)
