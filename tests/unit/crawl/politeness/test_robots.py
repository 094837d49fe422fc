"""robots.txt as RFC 9309 reads it."""

import time

import pytest

from emoji_ldm.crawl.politeness.robots import parse_robots, robots_tag_opt_outs
from emoji_ldm.crawl.politeness.url_normalize import parse_url

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


def test_the_longest_rule_wins_whatever_the_order_and_allow_wins_a_tie():
    text = "User-agent: *\nAllow: /\nDisallow: /media/\nAllow: /media/emojis\nDisallow: /tie\nAllow: /tie"
    assert not allows(text, "/media/x")
    assert allows(text, "/media/emojis/1.png")
    assert allows(text, "/tie")


@pytest.mark.parametrize(
    ("path", "fine"), [("/a.gif", False), ("/a.gif?x=1", True), ("/x/y/b.gif", False), ("/a.png", True)]
)
def test_star_and_dollar_are_patterns(path, fine):
    assert allows("User-agent: *\nDisallow: /*.gif$", path) is fine


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
def test_no_other_spelling_of_a_path_slips_past_a_rule(rule, path):
    assert not allows(f"User-agent: *\nDisallow: {rule}", path)
    assert allows(f"User-agent: *\nDisallow: {rule}", "/a/b..png")


def test_what_is_encoded_for_a_reason_stays_so():
    assert allows("User-agent: *\nDisallow: /a/b", "/a%2Fb")


def test_a_path_is_requested_as_it_was_judged():
    sent = {path: str(parse_url(f"http://h{path}")) for path in ("/a/../b?x=../y", "/%2e%2e/..", "/%70/..b/./c")}
    assert list(sent.values()) == ["http://h/b?x=../y", "http://h/", "http://h/%70/..b/c"]


def test_groups_share_rules_and_blank_lines_and_comments_do_not_end_them():
    text = "User-agent: other # a comment\nUser-agent: emoji-ldm\n\n# more\nDisallow: /x\n\nCrawl-delay: 2.5"
    robots = parse_robots(text, AGENT)
    assert robots.disallow_reason("https://example.org/x")
    assert robots.crawl_delay_s == 2.5


@pytest.mark.parametrize(
    ("rule", "path", "fine"),
    [
        ("/a*b*c$", "/a1b2c", False), ("/a*b*c$", "/a1b2cd", True), ("/a*b*c$", "/acb", True), ("*", "/any", False),
        ("/a*a$", "/a", True), ("/*/*/x", "/1/2/x", False), ("/*/*/x", "/1/x", True), ("/a$b", "/a$b", False),
    ],
)  # fmt: skip
def test_stars_find_their_parts_in_order(rule, path, fine):
    assert allows(f"User-agent: *\nDisallow: {rule}", path) is fine


def test_a_hostile_file_costs_little_time():
    began = time.monotonic()
    stars = "\n".join(f"Disallow: /{'*a' * 40}*{number}" for number in range(4000))
    robots = parse_robots(f"User-agent: *\n{stars}", AGENT)
    assert not robots.disallow_reason("https://example.org/" + "a" * 2000)
    assert time.monotonic() - began < 5


def test_our_name_is_found_with_a_version_behind_it():
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
def test_an_opt_out_binds_us_if_it_is_for_us_or_for_all(tags, found):
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
def test_nonsense_allows_everything(text):
    robots = parse_robots(text, AGENT)
    assert not robots.disallow_reason("https://example.org/x")
    assert robots.crawl_delay_s == 0
