"""Normalization of URLs: paths, dot segments and origins."""

import pytest

from emoji_ldm.crawl.politeness.url_normalize import normalize_path, origin_of, parse_url, remove_dot_segments
from emoji_ldm.outcomes import Outcome, Rejected


def test_a_url_is_requested_without_dot_segments():
    sent = {path: str(parse_url(f"http://h{path}")) for path in ("/a/../b?x=../y", "/%2e%2e/..", "/%70/..b/./c")}
    assert list(sent.values()) == ["http://h/b?x=../y", "http://h/", "http://h/%70/..b/c"]


@pytest.mark.parametrize(
    ("path", "normal"),
    [("/%70rivate", "/private"), ("/a%2fb", "/a%2Fb"), ("/café", "/caf%C3%A9"), ("/~joe?q=a b", "/~joe?q=a%20b")],
)
def test_equal_octets_are_spelt_the_same(path, normal):
    assert normalize_path(path) == normal


@pytest.mark.parametrize(
    ("path", "without"),
    [
        ("/a/b", "/a/b"),
        ("/a/../b", "/b"),
        ("/../..", "/"),
        ("/a/./b/.", "/a/b/"),
        ("/a/b/..", "/a/"),
        ("/a/..b", "/a/..b"),
    ],
)
def test_dot_segments_are_removed_as_by_rfc_3986(path, without):
    assert remove_dot_segments(path) == without


def test_an_origin_has_a_lower_case_host_and_an_explicit_port():
    assert origin_of(parse_url("https://EXAMPLE.org/x")) == "https://example.org:443"
    assert origin_of(parse_url("http://[2606:4700::1111]:81/")) == "http://[2606:4700::1111]:81"


def test_an_invalid_port_is_rejected():
    with pytest.raises(Rejected) as caught:
        parse_url("http://a:b:c/")
    assert caught.value.outcome is Outcome.ADDRESS
