"""Records and folders as sources: files that are there, broken, hostile."""

import gzip
import json
from pathlib import Path

import pytest
from pyarrow import fs

from emoji_ldm.crawl.fetch.local_files import read_local_file
from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter
from emoji_ldm.crawl.sources import file_pages, source_factory
from emoji_ldm.errors import ConfigError
from emoji_ldm.outcomes import Rejected
from emoji_ldm.store import Store
from tests.unit.crawl.read_source import config_of, walk
from tests.unit.crawl.stub_site import Site, emoji


@pytest.fixture
def site():
    with Site() as opened:
        yield opened


RECORDS = {
    "a.csv": '\ufefflink,Caption,tag\nhttps://x/1.png,One,\n,none,\nhttps://x/2.png,"Two,\n2",Cats\n'
    "not a link,x,\na,b,c,d\n",
    "b.json": json.dumps([{"url": "https://x/1.png", "title": "One"}, 7, {"url": "https://x/2.png", "title": None}]),
    "c.jsonl": '{"image_url": "https://x/1.png", "image_title": "One"}\n{broken\n\n{"image_url": "https://x/2.png"}\n',
    "d.txt": "https://x/1.png\tOne\n\nnothing\nhttps://x/2.png\n",
}


class TestRecords:
    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("name", RECORDS)
    def test_every_form_gives_links_and_captions_and_counts_what_is_broken(self, tmp_path, name, packed):
        path = tmp_path / (f"{name}.gz" if packed else name)
        text = RECORDS[name].encode()
        path.write_bytes(gzip.compress(text) if packed else text)
        first, last = walk(config_of(source="records", files=[str(path)]))
        assert (first.url, last.outcome, last.reason) == (f"{path.as_uri()}#page=1", "empty", "no more records")
        two = {"a": ("Two, 2", "Cats")}.get(name[0], ("", name[0]))
        assert [(t["image_url"], t["title"], t["tag"]) for t in first.tiles] == [
            ("https://x/1.png", "One", name[0]), ("https://x/2.png", *two),
        ]  # fmt: skip
        assert first.reason.startswith(f"2 tiles, {3 if name == 'a.csv' else 1} refused, such as: ")

    def test_long_files_have_several_pages_in_any_order(self, tmp_path, monkeypatch):
        monkeypatch.setattr(file_pages, "ROWS_PER_PAGE", 100)
        path = tmp_path / "long.txt"
        path.write_text("".join(f"https://x/{n}\n" for n in range(250)))
        config = config_of(source="records", files=[str(path)])
        pages = walk(config)
        assert [len(page.tiles) for page in pages] == [100, 100, 50, 0]
        reader, names = source_factory.open_reader(config, LocalRateLimiter(config)), source_factory.page_names(config)
        for number in (3, 2, 2):
            (page,) = reader.read(names.tags[0], [names.url(names.tags[0], number)])
            assert page.tiles == pages[number - 1].tiles
        assert len({tile["tile_id"] for page in pages for tile in page.tiles}) == 250

    @pytest.mark.parametrize(
        ("name", "text", "said"),
        [
            ("a.csv", "address,text\nhttps://x,y\n", "its columns are address, text; a column must be named link, url"),
            ("a.csv", "link,text\n,y\n", "gives no link in its first 1 records"),
            ("a.json", '{"url": "x"}', "not a list of objects but dict"),
            ("a.json", "[", "it is not JSON"),
            ("a.jsonl", "", "holds no records"),
            ("a.parquet", "x", "its name must end with .csv"),
            ("a.txt.gz", "x", "cannot be read"),
        ],
    )
    def test_a_file_without_links_is_one_clear_line(self, tmp_path, name, text, said):
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=said) as caught:
            source_factory.validate_source(config_of(source="records", files=[str(tmp_path / name)]))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
    def test_records_in_s3_are_read_through_the_store(self, tmp_path, monkeypatch, name):
        (tmp_path / "bucket/data").mkdir(parents=True)
        text = RECORDS["a.csv"].encode()
        (tmp_path / "bucket/data" / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
        monkeypatch.setattr(Store, "filesystem", fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()))
        first, _ = walk(config_of(source="records", files=[f"s3://bucket/data/{name}"]))
        assert (first.url, len(first.tiles)) == (f"s3://bucket/data/{name}#page=1", 2)

    def test_a_file_that_is_missing_on_a_worker_fails_its_page(self, tmp_path):
        config = config_of(source="records", files=[str(tmp_path / "gone.csv")])
        with pytest.raises(ConfigError, match=r"gone\.csv cannot be read"):
            source_factory.validate_source(config)
        tag = source_factory.page_names(config).tags[0]
        (page,) = source_factory.open_reader(config, LocalRateLimiter(config)).read(tag, [f"{tag}#page=1"])
        assert page.outcome == "failed" and "cannot be read" in page.reason


class TestFolder:
    @pytest.fixture
    def folder(self, tmp_path):
        for number, name in enumerate(("mine/a b.png", "mine/Cats/c.png", "mine/Cats/deep/d.WEBP", "other.png")):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(emoji(number))
        (tmp_path / "mine/Cats/c.txt").write_text("A cat\nthat smiles\n")
        (tmp_path / "mine/notes.md").write_text("x")
        return tmp_path / "mine"

    def test_files_are_tagged_by_folder_and_titled_by_name_or_sidecar(self, folder):
        first, last = walk(config_of(source="folder", files=[str(folder)]))
        assert [(tile["title"], tile["tag"]) for tile in first.tiles] == [
            ("a b", "mine"), ("A cat that smiles", "Cats"), ("d", "deep"),
        ]  # fmt: skip
        assert first.tiles[0]["image_url"] == (folder / "a b.png").as_uri()
        assert last.outcome == "empty"

    def test_an_image_is_read_from_inside_the_folder_and_from_nowhere_else(self, folder):
        config = config_of(source="folder", files=[str(folder)], max_bytes=2000)
        download = read_local_file((folder / "a b.png").as_uri(), config)
        assert (download.body, download.media_type) == (emoji(0), "image/png")
        (folder / "link.png").symlink_to(folder.parent / "other.png")
        (folder / "loop.png").symlink_to(folder / "loop.png")
        (folder / "big.png").write_bytes(b"x" * 2001)
        ends = {
            (folder / "link.png").as_uri(): "blocked-address",
            (folder.parent / "other.png").as_uri(): "blocked-address",
            f"{folder.as_uri()}/../other.png": "blocked-address",
            f"{folder.as_uri()}/%2e%2e/other.png": "blocked-address",
            "file:///etc/passwd": "blocked-address",
            "https://x.org/a.png": "blocked-address",
            Path("/dev/zero").as_uri(): "blocked-address",
            (folder / "gone.png").as_uri(): "dead",
            (folder / "big.png").as_uri(): "too-large",
            (folder / "loop.png").as_uri(): "unreachable",
            f"{folder.as_uri()}/%00.png": "unreachable",
        }
        for url, outcome in ends.items():
            with pytest.raises(Rejected) as caught:
                read_local_file(url, config)
            assert (url, caught.value.outcome) == (url, outcome)

    def test_no_other_source_reads_local_files(self, folder):
        with pytest.raises(Rejected, match="not an http address"):
            read_local_file((folder / "a b.png").as_uri(), config_of(source="records", files=[str(folder)]))
