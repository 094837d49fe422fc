"""Crawl profiles: the shipped one, own ones, and what is said of bad ones."""

import pytest

from emoji_ldm.crawl.site_profile import load_api_profile, load_site_profile
from emoji_ldm.errors import ConfigError


def bad(tmp_path, text):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_site_profile(str(path))
    return str(caught.value)


def test_the_shipped_profile_numbers_pages_and_quotes_tags():
    profile = load_site_profile("listing")
    assert (
        profile.page_url("https://example.org/", "Cat face", 2)
        == "https://example.org/emoji-list/tag/Cat%20face?page=2"
    )


def test_a_file_is_a_profile_too(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text('url: "{site}/{tag}/{page}"\ntile: li.emoji\n')
    assert load_site_profile(str(path)).tile == "li.emoji"


def test_a_missing_profile_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'listing'"):
        load_site_profile("listng")


def test_a_bad_profile_is_explained(tmp_path):
    assert "did you mean 'tile'" in bad(tmp_path, 'url: "{site}{tag}{page}"\ntiles: li\n')
    assert "{tag}" in bad(tmp_path, 'url: "{site}/{tags}"\n')
    assert "'li[' is not a CSS selector" in bad(tmp_path, 'url: "{site}/{tag}"\ntile: "li["\n')
    assert "did you mean 'parameter'" in bad(tmp_path, 'url: "{site}/{tag}"\nunwrap: {path: /p, paramter: u}\n')
    assert "mapping" in bad(tmp_path, "- a\n")
    assert "not YAML" in bad(tmp_path, "url: [\n")


def test_apis_have_profiles_of_their_own_kind(tmp_path):
    address = load_api_profile("bing").page_url("https://api.example.org", "blob & cat", 3)
    assert address == "https://api.example.org/v7.0/images/search?q=blob%20%26%20cat&count=50&offset=100"
    assert load_api_profile("serpapi").page_url("https://s", "a", 1).endswith("q=a&ijn=0")
    with pytest.raises(ConfigError, match=r"of kind 'api', for crawl.source=api; choose one of discord-emoji, listing"):
        load_site_profile("bing")
    with pytest.raises(ConfigError, match=r"of kind 'pages'.*choose one of bing, serpapi"):
        load_api_profile("listing")
    path = tmp_path / "own.yaml"
    path.write_text('kind: api\nurl: "{site}{tag}"\nitems: x\nimage: y\nkey_variable: KEY\n')
    with pytest.raises(ConfigError, match="exactly one of key_header and key_parameter"):
        load_api_profile(str(path))
    path.write_text('kind: api\nurl: "{site}{tag}"\nitem: x\nimage: y\n')
    with pytest.raises(ConfigError, match=r"items: Field required|did you mean 'items'"):
        load_api_profile(str(path))
