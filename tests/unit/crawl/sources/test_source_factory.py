"""Validation of the configured source, and whether its site answers."""

import pytest

from emoji_ldm.crawl.sources import source_factory
from emoji_ldm.errors import ConfigError, CrawlError
from emoji_ldm.outcomes import Outcome
from tests.unit.crawl.hostile_servers import raw
from tests.unit.crawl.read_source import config_of
from tests.unit.crawl.stub_site import Site, answer, drip


@pytest.fixture
def site():
    with Site() as opened:
        yield opened


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"site": ""}, ConfigError, "crawl.site"),
        ({"tags": []}, ConfigError, "crawl.tags"),
        ({"profile": "listng"}, ConfigError, "did you mean 'listing'"),
        ({"source": "api"}, ConfigError, "of kind 'pages'.*choose one of bing, serpapi"),
        ({"profile": "bing"}, ConfigError, "for crawl.source=api; choose one of discord-emoji, listing"),
        ({"source": "records"}, ConfigError, r"needs files of .link, caption.: 'crawl.files="),
        ({"source": "folder", "files": ["/nowhere"]}, ConfigError, "no folder /nowhere"),
        ({"source": "folder", "files": ["s3://b/x"]}, ConfigError, "not a local folder"),
    ],
)
def test_an_invalid_source_is_an_error_before_anything_starts(options, error, text):
    with pytest.raises(error, match=text):
        source_factory.validate_source(config_of(**{"site": "https://x.org", **options}))


def test_several_tags_need_a_profile_with_a_tag(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text('url: "{site}/emoji?page={page}"\n')
    source_factory.validate_source(config_of(site="https://x.org", profile=str(path)))
    with pytest.raises(ConfigError, match=r"does not contain \{tag\}"):
        source_factory.validate_source(config_of(site="https://x.org", profile=str(path), tags=["A", "B"]))


def test_a_site_that_does_not_answer_is_noticed_by_requesting_robots_txt(site):
    site.routes["/robots.txt"] = answer(200, b"User-agent: *\nDisallow: /private/")
    (rules,) = source_factory.read_site_rules(config_of(site=f"{site.url}/emoji")).values()
    assert site.log == ["/robots.txt"]
    assert rules.robots.disallow_reason(f"{site.url}/private/x")
    with pytest.raises(CrawlError, match=r"http://127\.0\.0\.1:1 does not answer"):
        source_factory.read_site_rules(config_of(site="http://127.0.0.1:1"))


def test_a_redirect_of_robots_txt_to_a_private_address_is_not_followed(site):
    with Site() as other:
        site.routes["/robots.txt"] = answer(302, Location=f"{other.url.replace('127.0.0.1', 'localhost')}/secrets")
        (rules,) = source_factory.read_site_rules(config_of(site=site.url)).values()
        assert (site.log, other.log) == (["/robots.txt"], [])
        assert rules.rejection[0] is Outcome.ADDRESS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("route", "timeout_s", "text"),
    [
        (raw(b"SSH-2.0-OpenSSH_9\r\n"), 20, "does not answer: 400"),
        (drip(b"", 0.05, head=True), 0.5, "answer within 0.5 s"),
    ],
)
def test_a_server_that_speaks_no_http_or_drips_does_not_answer(site, route, timeout_s, text):
    site.routes["/robots.txt"] = route
    with pytest.raises(CrawlError, match=text) as caught:
        source_factory.read_site_rules(config_of(site=site.url, fetch_timeout_s=timeout_s))
    assert "\n" not in str(caught.value)
