"""Crawl profiles: the shipped one, own ones, and what is said of bad ones."""

import pytest

from emoji_ldm.crawl.profile import load_profile
from emoji_ldm.errors import ConfigError


def bad(tmp_path, text):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_profile(str(path))
    return str(caught.value)


def test_the_shipped_profile_numbers_pages_and_quotes_tags():
    profile = load_profile("listing")
    assert (
        profile.page_url("https://example.org/", "Cat face", 2)
        == "https://example.org/emoji-list/tag/Cat%20face?page=2"
    )


def test_a_file_is_a_profile_too(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text('url: "{site}/{tag}/{page}"\ntile: li.emoji\n')
    assert load_profile(str(path)).tile == "li.emoji"


def test_a_missing_profile_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'listing'"):
        load_profile("listng")


def test_a_bad_profile_is_explained(tmp_path):
    assert "did you mean 'tile'" in bad(tmp_path, 'url: "{site}{tag}{page}"\ntiles: li\n')
    assert "{tag}" in bad(tmp_path, 'url: "{site}/{page}"\n')
    assert "mapping" in bad(tmp_path, "- a\n")
    assert "not YAML" in bad(tmp_path, "url: [\n")
