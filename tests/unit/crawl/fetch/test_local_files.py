"""Local files as image URLs: read from inside the configured folders only."""

from pathlib import Path

import pytest

from emoji_ldm.crawl.fetch.local_files import read_local_file
from emoji_ldm.outcomes import Rejected
from tests.unit.crawl.read_source import config_of
from tests.unit.crawl.stub_site import emoji


def test_files_are_read_from_inside_the_folder_only(folder):
    config = config_of(source="folder", files=[str(folder)], max_bytes=2000)
    response = read_local_file((folder / "a b.png").as_uri(), config)
    assert (response.body, response.media_type) == (emoji(0), "image/png")
    (folder / "link.png").symlink_to(folder.parent / "other.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "big.png").write_bytes(b"x" * 2001)
    outcomes = {
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
    for url, outcome in outcomes.items():
        with pytest.raises(Rejected) as caught:
            read_local_file(url, config)
        assert (url, caught.value.outcome) == (url, outcome)


def test_no_other_source_reads_local_files(folder):
    with pytest.raises(Rejected, match="not an http address"):
        read_local_file((folder / "a b.png").as_uri(), config_of(source="records", files=[str(folder)]))
