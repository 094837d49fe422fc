"""Files of {link, caption} records as a source, also broken ones."""

import gzip
import json

import pytest

from emoji_ldm.crawl.sources import source_factory
from emoji_ldm.errors import ConfigError
from tests.unit.crawl.read_source import config_of, read_tag

RECORDS = {
    "a.csv": '\ufefflink,Caption,tag\nhttps://x/1.png,One,\n,none,\nhttps://x/2.png,"Two,\n2",Cats\n'
    "not a link,x,\na,b,c,d\n",
    "b.json": json.dumps([{"url": "https://x/1.png", "title": "One"}, 7, {"url": "https://x/2.png", "title": None}]),
    "c.jsonl": '{"image_url": "https://x/1.png", "image_title": "One"}\n{broken\n\n{"image_url": "https://x/2.png"}\n',
    "d.txt": "https://x/1.png\tOne\n\nnothing\nhttps://x/2.png\n",
}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", RECORDS)
def test_every_format_gives_links_and_captions_and_counts_broken_records(tmp_path, name, compressed):
    path = tmp_path / (f"{name}.gz" if compressed else name)
    text = RECORDS[name].encode()
    path.write_bytes(gzip.compress(text) if compressed else text)
    first, last = read_tag(config_of(source="records", files=[str(path)]))
    assert (first.url, last.outcome, last.reason) == (f"{path.as_uri()}#page=1", "empty", "no more records")
    two = {"a": ("Two, 2", "Cats")}.get(name[0], ("", name[0]))
    assert [(t["image_url"], t["title"], t["tag"]) for t in first.tiles] == [
        ("https://x/1.png", "One", name[0]), ("https://x/2.png", *two),
    ]  # fmt: skip
    assert first.reason.startswith(f"2 tiles, {3 if name == 'a.csv' else 1} refused, such as: ")


@pytest.mark.parametrize(
    ("name", "text", "message"),
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
def test_a_file_without_links_is_a_config_error_of_one_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        source_factory.validate_source(config_of(source="records", files=[str(tmp_path / name)]))
    assert "\n" not in str(caught.value)
