"""robots.txt as RFC 9309 reads it."""

import pytest

from emoji_ldm.crawl.robots import Robots, parse_robots

AGENT = "emoji-ldm/0.1 (+https://example.org)"


def allows(text, path):
    return not parse_robots(text, AGENT).refusal(f"https://example.org{path}")


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


def test_groups_share_rules_and_blank_lines_and_comments_do_not_end_them():
    text = "User-agent: other # a comment\nUser-agent: emoji-ldm\n\n# more\nDisallow: /x\n\nCrawl-delay: 2.5"
    robots = parse_robots(text, AGENT)
    assert robots.refusal("https://example.org/x")
    assert robots.delay_s == 2.5


def test_a_host_may_be_denied_as_a_whole():
    assert Robots(denied="robots.txt answers 503").refusal("https://example.org/")


@pytest.mark.parametrize(
    "text", ["Disallow: /", "\ufeffUser-agent", "Crawl-delay: soon", ":::\n\x00", "User-agent: *\nCrawl-delay: -3"]
)
def test_nonsense_allows_everything(text):
    robots = parse_robots(text, AGENT)
    assert not robots.refusal("https://example.org/x")
    assert robots.delay_s == 0
