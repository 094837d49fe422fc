"""robots.txt as RFC 9309 defines it, X-Robots-Tag, and fetching: redirects, missing and unreachable files, delays."""

import random
import time

import pytest
from protego import Protego

from emoji_ldm.crawl.politeness.robots import parse_robots, robots_tag_opt_outs
from emoji_ldm.outcomes import Outcome, Rejected
from tests.unit.crawl.politeness.limiters import config_of, with_limiter
from tests.unit.crawl.stub_site import Site, answer

AGENT = "emoji-ldm/0.1 (+https://example.org)"


def allows(text, path):
    return not parse_robots(text, AGENT).disallow_reason(f"https://example.org{path}")


def test_without_rules_everything_is_allowed():
    assert allows("", "/any")
    assert allows("User-agent: *\nDisallow:", "/any")


def test_a_group_of_our_own_name_replaces_the_group_of_all():
    text = "User-agent: *\nDisallow: /\n\nUser-Agent: Emoji-LDM\nDisallow: /private/"
    assert allows(text, "/public")
    assert not allows(text, "/private/x")


def test_sitemaps_are_named_for_all_crawlers_wherever_they_stand():
    robots = parse_robots("User-agent: b\nSitemap: https://a.org/1.xml\nDisallow: /\nsitemap: /2.xml", "emoji-ldm/1")
    assert robots.sitemaps == ("https://a.org/1.xml", "/2.xml") and not robots.rules


def test_the_longest_rule_wins_whatever_the_order_and_allow_wins_a_tie():
    text = "User-agent: *\nAllow: /\nDisallow: /media/\nAllow: /media/emojis\nDisallow: /tie\nAllow: /tie"
    assert not allows(text, "/media/x")
    assert allows(text, "/media/emojis/1.png")
    assert allows(text, "/tie")


@pytest.mark.parametrize(
    ("path", "allowed"), [("/a.gif", False), ("/a.gif?x=1", True), ("/x/y/b.gif", False), ("/a.png", True)]
)
def test_star_and_dollar_are_patterns(path, allowed):
    assert allows("User-agent: *\nDisallow: /*.gif$", path) is allowed


def test_queries_and_percent_codes_are_matched():
    assert not allows("User-agent: *\nDisallow: /_next/image?url=", "/_next/image?url=a")
    assert not allows("User-agent: *\nDisallow: /caf%c3%a9", "/café")


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ("/private", "/%70rivate/x"),
        ("/private", "/a/../private/x"),
        ("/private", "/./a/%2e%2E/private/x"),
        ("/private/", "/private/x/.."),
        ("/%7Ejoe/", "/~joe/x"),
        ("/~joe/", "/%7ejoe/x"),
        ("/a%2fb", "/a%2Fb"),
    ],
)
def test_no_other_spelling_of_a_path_evades_a_rule(rule, path):
    assert not allows(f"User-agent: *\nDisallow: {rule}", path)
    assert allows(f"User-agent: *\nDisallow: {rule}", "/a/b..png")


def test_an_encoded_slash_is_not_a_slash():
    assert allows("User-agent: *\nDisallow: /a/b", "/a%2Fb")


def test_groups_share_rules_and_blank_lines_and_comments_do_not_end_them():
    text = "User-agent: other # a comment\nUser-agent: emoji-ldm\n\n# more\nDisallow: /x\n\nCrawl-delay: 2.5"
    robots = parse_robots(text, AGENT)
    assert robots.disallow_reason("https://example.org/x")
    assert robots.crawl_delay_s == 2.5


@pytest.mark.parametrize(
    ("rule", "path", "allowed"),
    [
        ("/a*b*c$", "/a1b2c", False), ("/a*b*c$", "/a1b2cd", True), ("/a*b*c$", "/acb", True), ("*", "/any", False),
        ("/a*a$", "/a", True), ("/*/*/x", "/1/2/x", False), ("/*/*/x", "/1/x", True), ("/a$b", "/a$b", False),
    ],
)  # fmt: skip
def test_stars_match_their_parts_in_order(rule, path, allowed):
    assert allows(f"User-agent: *\nDisallow: {rule}", path) is allowed


def test_a_hostile_file_takes_little_time():
    began = time.monotonic()
    stars = "\n".join(f"Disallow: /{'*a' * 40}*{number}" for number in range(4000))
    robots = parse_robots(f"User-agent: *\n{stars}", AGENT)
    assert not robots.disallow_reason("https://example.org/" + "a" * 2000)
    assert time.monotonic() - began < 5


def test_a_group_may_name_our_version_too():
    assert not allows("User-agent: emoji-ldm/2.0\nDisallow: /", "/x")


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        (["noai"], ["noai"]),
        (["nofollow, NoImageAI"], ["noimageai"]),
        (["otherbot: noindex, noai"], []),
        (["otherbot: noindex, emoji-ldm: noml"], ["noml"]),
        (["emoji-ldm: none", "otherbot: noai"], ["none"]),
        (["*: noimageindex"], ["noimageindex"]),
        (["unavailable_after: Wednesday, 25-Jun-30 15:30:00 GMT, noindex"], ["noindex"]),
        (["max-snippet: 20, noai"], ["noai"]),
        (["all", "", ":", "a:b:noai"], []),
    ],
)
def test_an_opt_out_applies_if_it_addresses_us_or_all_crawlers(tags, found):
    assert robots_tag_opt_outs(tags, AGENT) == found


@pytest.mark.parametrize(
    "text",
    [
        "Disallow: /",
        "\ufeffUser-agent",
        "Crawl-delay: soon",
        ":::\n\x00",
        "User-agent: *\nCrawl-delay: -3",
        "User-agent: *\nCrawl-delay: inf",
        "User-agent: *\nCrawl-delay: nan",
    ],
)
def test_an_invalid_file_allows_everything(text):
    robots = parse_robots(text, AGENT)
    assert not robots.disallow_reason("https://example.org/x")
    assert robots.crawl_delay_s == 0


def test_a_group_of_a_shorter_name_is_not_ours():
    assert allows("User-agent: emoji\nDisallow: /", "/x")
    assert not allows("User-agent: emoji\nDisallow:\n\nUser-agent: *\nDisallow: /", "/x")


def test_random_rules_are_read_like_protego_reads_them():
    """Protego is an independent implementation; see `robots` for the cases in which it differs on purpose."""
    rng = random.Random(0)
    for _ in range(2000):
        rules = ["/" + "".join(rng.choices("ab/*", k=rng.randrange(5))) + rng.choice(("", "$")) for _ in range(3)]
        text = "User-agent: *\n" + "\n".join(f"{rng.choice(('Allow', 'Disallow'))}: {rule}" for rule in rules)
        path = "/" + "".join(rng.choices("ab/", k=rng.randrange(6)))
        assert allows(text, path) == Protego.parse(text).can_fetch(f"https://example.org{path}", "emoji-ldm"), (
            text,
            path,
        )


@pytest.fixture
def site():
    with Site({"/robots.txt": answer(200, b""), "/x": answer(200, b"x")}) as opened:
        yield opened


def test_a_site_with_a_crawl_delay_of_a_day_is_not_crawled(site):
    site.routes["/robots.txt"] = answer(200, b"User-agent: *\nCrawl-delay: 86400")
    with pytest.raises(Rejected, match="Crawl-delay") as rejection:
        with_limiter(config_of(site.url), lambda limiter: limiter.acquire(f"{site.url}/x"))
    assert rejection.value.outcome is Outcome.ROBOTS


def test_redirects_of_robots_txt_are_followed(site):
    site.routes["/robots.txt"] = answer(301, Location="/moved")
    site.routes["/moved"] = answer(200, b"User-agent: *\nDisallow: /x")
    with pytest.raises(Rejected) as rejection:
        with_limiter(config_of(site.url), lambda limiter: limiter.acquire(f"{site.url}/x"))
    assert rejection.value.outcome is Outcome.ROBOTS


@pytest.mark.slow
@pytest.mark.parametrize(("status", "allowed"), [(404, True), (403, True), (401, True), (429, False), (500, False)])
def test_a_missing_robots_txt_allows_everything_and_an_unreachable_one_nothing(site, status, allowed):
    site.routes["/robots.txt"] = answer(status)
    if allowed:
        assert with_limiter(config_of(site.url), lambda limiter: limiter.acquire(f"{site.url}/x"))
    else:
        with pytest.raises(Rejected, match=r"robots.txt answers") as rejection:
            with_limiter(config_of(site.url), lambda limiter: limiter.acquire(f"{site.url}/x"))
        assert rejection.value.outcome is Outcome.UNREACHABLE
