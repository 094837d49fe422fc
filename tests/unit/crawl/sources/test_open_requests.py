"""Open requests of a page: those that may bring tiles, without polls, streams and tickers."""

import pytest

from emoji_ldm.crawl.sources import open_requests
from emoji_ldm.crawl.sources.open_requests import OpenRequests, are_of_one_site

PAGE = "https://www.example.org/emoji"


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(open_requests.time, "monotonic", lambda: now[0])
    return now


def begin(requests, name, url, kind="Fetch", **more):
    request = {"url": url, "method": "GET", **more}
    requests.note("Network.requestWillBeSent", {"requestId": name, "type": kind, "request": request})


def end(requests, name):
    requests.note("Network.loadingFinished", {"requestId": name})


def paths(requests, unanswered=frozenset()):
    return requests.awaited(PAGE, unanswered)


def test_an_answer_of_the_own_site_is_waited_for_however_long_it_takes(clock):
    requests = OpenRequests()
    begin(requests, "1", "https://api.example.org/list?page=1")
    begin(requests, "2", "https://elsewhere.net/list")
    begin(requests, "3", "https://www.example.org/a.png", "Image")
    assert paths(requests) == ["https://api.example.org/list"] and requests.rested_s() == 0
    clock[0] += 60
    assert paths(requests) == ["https://api.example.org/list"] and requests.rested_s() > 0
    assert paths(requests, {"https://api.example.org/list"}) == []
    end(requests, "1")
    clock[0] += 0.5
    assert paths(requests) == [] and requests.rested_s() == 0.5


def test_what_was_asked_and_answered_before_is_a_poll_unless_its_body_differs(clock):
    requests = OpenRequests()
    for name, body in (("1", "first"), ("2", "first"), ("3", "second")):
        begin(requests, name, "https://www.example.org/graphql", method="POST", postData=body)
        assert bool(paths(requests)) == (name != "2")
        end(requests, name)


def test_a_ticker_with_ever_new_addresses_is_not_waited_for_while_its_answers_come_quickly(clock):
    requests = OpenRequests()
    for number in range(open_requests.NUM_TICKS):
        begin(requests, f"{number}", f"https://www.example.org/tick?{number}")
        assert paths(requests)
        end(requests, f"{number}")
    begin(requests, "late", "https://www.example.org/tick?late")
    assert paths(requests) == []
    clock[0] += open_requests.TICK_S
    assert paths(requests) == ["https://www.example.org/tick"], "the same path may bring one batch after the other"


def test_a_stream_counts_in_its_first_seconds_and_for_pages_without_tiles_only(clock):
    requests = OpenRequests()
    requests.note("Network.webSocketCreated", {"requestId": "1", "url": "wss://www.example.org/live"})
    assert requests.rested_s(streams=True) == 0 < requests.rested_s()
    clock[0] += open_requests.RECENT_S
    assert requests.rested_s(streams=True) > 0 and paths(requests) == []


def test_a_style_sheet_that_never_comes_is_not_waited_for_long(clock):
    requests = OpenRequests()
    begin(requests, "1", "https://www.example.org/never.css", "Stylesheet")
    assert requests.rested_s() == 0 and paths(requests) == []


def test_another_document_has_requests_of_its_own(clock):
    requests = OpenRequests()
    begin(requests, "1", "https://www.example.org/list")
    requests.clear()
    assert requests.rested_s(streams=True) > 0 and paths(requests) == []


def test_hosts_of_one_site():
    assert are_of_one_site("cdn.example.org", PAGE) and not are_of_one_site("example.com", PAGE)
