"""Files as numbered pages: long files, S3 objects, missing files. Folders of image files as a source."""

import gzip

import pytest
from pyarrow import fs

from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter
from emoji_ldm.crawl.sources import file_pages, source_factory
from emoji_ldm.errors import ConfigError
from emoji_ldm.store import Store
from tests.unit.crawl.read_source import config_of, read_tag
from tests.unit.crawl.sources.test_record_files import RECORDS


def test_long_files_have_several_pages_that_can_be_read_in_any_order(tmp_path, monkeypatch):
    monkeypatch.setattr(file_pages, "ROWS_PER_PAGE", 100)
    path = tmp_path / "long.txt"
    path.write_text("".join(f"https://x/{n}\n" for n in range(250)))
    config = config_of(source="records", files=[str(path)])
    pages = read_tag(config)
    assert [len(page.tiles) for page in pages] == [100, 100, 50, 0]
    reader, names = source_factory.open_reader(config, LocalRateLimiter(config)), source_factory.page_names(config)
    for number in (3, 2, 2):
        (page,) = reader.read(names.tags[0], [names.url(names.tags[0], number)])
        assert page.tiles == pages[number - 1].tiles
    assert len({tile["tile_id"] for page in pages for tile in page.tiles}) == 250


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_records_in_s3_are_read_through_the_store(tmp_path, monkeypatch, name):
    (tmp_path / "bucket/data").mkdir(parents=True)
    text = RECORDS["a.csv"].encode()
    (tmp_path / "bucket/data" / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    monkeypatch.setattr(Store, "filesystem", fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()))
    first, _ = read_tag(config_of(source="records", files=[f"s3://bucket/data/{name}"]))
    assert (first.url, len(first.tiles)) == (f"s3://bucket/data/{name}#page=1", 2)


def test_a_file_that_is_missing_on_a_worker_fails_its_page(tmp_path):
    config = config_of(source="records", files=[str(tmp_path / "gone.csv")])
    with pytest.raises(ConfigError, match=r"gone\.csv cannot be read"):
        source_factory.validate_source(config)
    tag = source_factory.page_names(config).tags[0]
    (page,) = source_factory.open_reader(config, LocalRateLimiter(config)).read(tag, [f"{tag}#page=1"])
    assert page.outcome == "failed" and "cannot be read" in page.reason


def test_files_are_tagged_by_folder_and_titled_by_name_or_sidecar(folder):
    first, last = read_tag(config_of(source="folder", files=[str(folder)]))
    assert [(tile["title"], tile["tag"]) for tile in first.tiles] == [
        ("a b", "mine"), ("A cat that smiles", "Cats"), ("d", "deep"),
    ]  # fmt: skip
    assert first.tiles[0]["image_url"] == (folder / "a b.png").as_uri()
    assert last.outcome == "empty"
