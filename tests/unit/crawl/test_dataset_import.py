"""Imports: what other data sets hold comes in like crawled pictures, once, whatever is killed on the way."""

import csv
import io
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from emoji_ldm.config import Config
from emoji_ldm.crawl import dataset_import
from emoji_ldm.crawl.dataset_import import import_dataset
from emoji_ldm.dataset.export import export
from emoji_ldm.dataset.formats.export_options import ExportOptions
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import ConfigError
from emoji_ldm.images.normalize import normalize_image
from emoji_ldm.schemas import CAPTIONS, IMAGES, OUTCOMES
from emoji_ldm.store import Store
from tests.caption_rows import fill_captions
from tests.emoji_images import blobs, fill_images


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


def config(tmp_path):
    return Config(store=str(tmp_path / "fresh"))


def table(config, spec):
    return Table(Store(config.store), spec)


def captions_of(config):
    return sorted(table(config, CAPTIONS).read(["caption"])["caption"].to_pylist())


@pytest.mark.parametrize("name", ["hf", "webdataset", "csv"])
def test_an_export_comes_back_with_the_same_images_and_captions(exported, tmp_path, name):
    folder, rows = exported
    fresh = config(tmp_path)
    facts = import_dataset(fresh, str(folder / name))
    assert (facts["pictures"], facts["captions"], facts["images"]) == ({"kept": 12}, 3, 12)
    back = table(fresh, IMAGES).read(["image_id", "title", "tags", "source_url", "page_url"]).to_pylist()
    columns = ("image_id", "title", "source_url") if name == "csv" else tuple(rows[0])  # csv has no more than these
    told = ({row["image_id"]: tuple(row[column] for column in columns) for row in several} for several in (rows, back))
    assert next(told) == next(told)
    captions = table(fresh, CAPTIONS).read(["image_id", "caption", "engine"]).to_pylist()
    assert all(row["caption"] == f"a {row['image_id'][:4]}" and row["engine"] == "import" for row in captions)
    versions = facts["versions"]
    again = import_dataset(fresh, str(folder / name))
    assert (again["pictures"], again["captions"], again["versions"]) == ({"there before": 12}, 0, versions)


def test_a_killed_import_run_again_doubles_and_loses_nothing(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_import, "SHARD_ITEMS", 5)
    fresh, (folder, rows) = config(tmp_path), exported
    commit = Table.commit
    for point in range(1, 9):  # every commit that the import makes: images, outcomes, captions of three shards

        def dies(self, *arguments, left=[point], **options):  # noqa: B006 - one counter per death
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            return commit(self, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(Table, "commit", dies)
            try:
                import_dataset(fresh, str(folder / "hf"))
            except KeyboardInterrupt:
                continue
            break
    import_dataset(fresh, str(folder / "hf"))
    for spec, number in ((IMAGES, 12), (OUTCOMES, 12), (CAPTIONS, 3)):
        keys = table(fresh, spec).read([spec.key]).column(0).to_pylist()
        assert len(keys) == len(set(keys)) == number, spec.name
    assert table(fresh, IMAGES).keys() == {row["image_id"] for row in rows}


def test_a_folder_comes_in_with_captions_beside_its_pictures_and_bad_files_as_outcomes(tmp_path):
    folder = tmp_path / "mine" / "Blobs"
    folder.mkdir(parents=True)
    picture = blobs(1)[0].data
    (folder / "happy_blob.png").write_bytes(picture)
    (folder / "happy_blob.txt").write_text("a happy blob\n")
    with Image.open(io.BytesIO(picture)) as image:
        image.convert("RGBA").save(folder / "the_same.webp", lossless=True, exact=True)
    (folder / "page.png").write_bytes(b"<html>")
    (folder / ".hidden.png").write_bytes(picture)
    fresh = config(tmp_path)
    facts = import_dataset(fresh, str(tmp_path / "mine"))
    assert facts["pictures"] == {"kept": 1, "duplicate-of": 1, "not-an-image": 1}
    (row,) = table(fresh, IMAGES).read(["title", "tags", "source_url"]).to_pylist()
    assert (row["title"], row["tags"]) == ("happy blob", ["Blobs"]) and row["source_url"].startswith("file:///")
    assert table(fresh, CAPTIONS).read(["caption"])["caption"].to_pylist() == ["a happy blob"]


def test_a_text_file_beside_a_picture_has_a_caption_per_line(tmp_path, capsys):
    folder = tmp_path / "faces"
    folder.mkdir()
    (folder / "1.png").write_bytes(blobs(1)[0].data)
    (folder / "1.txt").write_text("She smiles.\r\n\nShe has wavy hair.\n")
    (folder / "list.csv").write_text("1.png,a face")
    fresh = config(tmp_path)
    assert import_dataset(fresh, str(folder))["captions"] == 2
    assert captions_of(fresh) == ["She has wavy hair.", "She smiles."]
    assert "import: not read: list.csv (captions are read from metadata.csv" in "".join(capsys.readouterr())


def test_a_list_in_a_text_column_is_several_captions(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    for number, picture in enumerate(blobs(3)):
        (folder / f"{number}.png").write_bytes(picture.data)
    cells = ['["one, two", "three"]', "['it is', \"it's\"]", "[sticker] four"]
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file_name", "captions"], *([f"{n}.png", cell] for n, cell in enumerate(cells))])
    fresh = config(tmp_path)
    import_dataset(fresh, str(folder))
    assert captions_of(fresh) == ["[sticker] four", "it is", "it's", "one, two", "three"]


def test_metadata_in_json_lines_is_read(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    (folder / "1.png").write_bytes(blobs(1)[0].data)
    (folder / "metadata.jsonl").write_text('{"file_name": "1.png", "text": ["a face", "a smile"]}\n')
    fresh = config(tmp_path)
    import_dataset(fresh, str(folder))
    assert captions_of(fresh) == ["a face", "a smile"]
    (folder / "metadata.jsonl").write_text('{"name": "1.png"}\n')
    with pytest.raises(ConfigError, match=r"metadata\.jsonl has no column file_name \(columns: name\)"):
        import_dataset(fresh, str(folder))


def test_foreign_parquet_and_tars_without_our_columns_come_in_too(tmp_path):
    pictures = [picture.data for picture in blobs(4)]
    rows = pa.table({"png": pa.array(pictures[:2], pa.binary()), "text": ["one", ""]})
    (tmp_path / "parquet").mkdir()
    pq.write_table(rows, tmp_path / "parquet" / "x.parquet")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for number, data in enumerate(pictures[2:]):
            for ending, content in (("jpg", data), ("cls", b"7"), ("txt", b"from a tar")):
                info = tarfile.TarInfo(f"./samples/{number}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    fresh = config(tmp_path)
    assert import_dataset(fresh, str(tmp_path / "parquet"))["captions"] == 1
    facts = import_dataset(fresh, str(tmp_path / "x.tar"))
    assert (facts["pictures"], facts["captions"], facts["images"]) == ({"kept": 2}, 2, 4)
    urls = sorted(table(fresh, OUTCOMES).keys())
    assert urls[0].endswith("parquet/x.parquet#0") and urls[-1].endswith("x.tar#./samples/1")


def test_pictures_that_name_one_origin_are_all_kept_with_their_own_captions(tmp_path):
    pictures, folder = blobs(3), tmp_path / "in"
    folder.mkdir()
    for name, picture in zip("abc", pictures, strict=True):
        (folder / f"{name}.png").write_bytes(picture.data)
    (folder / "d.png").write_bytes(pictures[0].data)
    rows = ["a.png,https://s/sheet,", *(f"{name}.png,https://s/sheet,a {name}" for name in "bcd")]
    (folder / "metadata.csv").write_text("\n".join(["file_name,url,caption", *rows]))
    fresh = config(tmp_path)
    assert import_dataset(fresh, str(folder))["pictures"] == {"kept": 3, "there before": 1}
    ids = [normalize_image(picture.data, size_px=128, max_px=4096).image_id for picture in pictures]
    images = table(fresh, IMAGES).read(["image_id", "source_url"]).to_pylist()
    assert {row["image_id"]: row["source_url"].rpartition("/")[2] for row in images} == dict(
        zip(ids, ("sheet", "b.png", "c.png"), strict=True)
    )
    captions = table(fresh, CAPTIONS).read(["image_id", "caption"]).to_pylist()
    assert {row["image_id"]: row["caption"] for row in captions} == dict(zip(ids, ("a d", "a b", "a c"), strict=True))
    assert import_dataset(fresh, str(folder))["pictures"] == {"there before": 4}


def test_what_ended_without_an_image_is_tried_again_and_written_only_if_it_ends_otherwise(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "metadata.csv").write_text("file_name,url\na.png,https://s/a.png\nb.png,https://s/b.png\n")
    (folder / "b.png").write_bytes(b"<html>")
    fresh = config(tmp_path)
    assert import_dataset(fresh, str(folder))["pictures"] == {"dead": 1, "not-an-image": 1}
    version = table(fresh, OUTCOMES).version
    assert import_dataset(fresh, str(folder))["pictures"] == {"there before": 2}
    assert table(fresh, OUTCOMES).version == version
    (folder / "a.png").write_bytes(blobs(1)[0].data)
    assert import_dataset(fresh, str(folder))["pictures"] == {"kept": 1, "there before": 1}
    rows = table(fresh, OUTCOMES).read(["url", "outcome"]).to_pylist()
    assert sorted((row["url"][-5:], row["outcome"]) for row in rows) == [("a.png", "kept"), ("b.png", "not-an-image")]
    images = table(fresh, IMAGES)
    assert images.count() == 1
    images.upsert([], images.keys(), app_id="restored to before", metadata={})
    assert import_dataset(fresh, str(folder))["pictures"] == {"kept": 1, "there before": 1}
    assert table(fresh, IMAGES).count() == 1


def test_too_large_and_missing_files_are_outcomes(tmp_path):
    (tmp_path / "in" / "images").mkdir(parents=True)
    (tmp_path / "in" / "images" / "a.png").write_bytes(blobs(1)[0].data)
    (tmp_path / "in" / "metadata.csv").write_text("file_name,tag\na.png,Cat\ngone.png,Cat\n")
    fresh = Config(store=str(tmp_path / "fresh"), crawl={"max_bytes": 100})
    assert import_dataset(fresh, str(tmp_path / "in"))["pictures"] == {"dead": 1, "too-large": 1}
    reasons = set(table(fresh, OUTCOMES).read(["reason"])["reason"].to_pylist())
    assert "the file is missing" in reasons and any("crawl.max_bytes is 100" in reason for reason in reasons)


def test_sources_that_hold_no_pictures_are_refused_in_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no .*nowhere"):
        import_dataset(config(tmp_path), str(tmp_path / "nowhere"))
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "records.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"file endings: json\); URLs are crawled: emoji-ldm crawl"):
        import_dataset(config(tmp_path), str(tmp_path / "records"))
    (tmp_path / "records" / "x.parquet").write_bytes(b"no Parquet")
    with pytest.raises(ConfigError, match=r"x\.parquet cannot be read"):
        import_dataset(config(tmp_path), str(tmp_path / "records"))
    pq.write_table(pa.table({"image": ["a.png"]}), tmp_path / "records" / "x.parquet")
    with pytest.raises(ConfigError, match=r"no column `image` of bytes \(columns: image string\)"):
        import_dataset(config(tmp_path), str(tmp_path / "records"))
    assert not table(config(tmp_path), IMAGES).exists
