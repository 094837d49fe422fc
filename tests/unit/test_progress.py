"""Progress without a terminal, durations, summaries."""

import pytest

from emoji_ldm import progress
from emoji_ldm.progress import format_duration, print_summary, track


@pytest.fixture
def lines(monkeypatch):
    found = []
    monkeypatch.setattr(progress.console, "print", lambda text, **_: found.append(text))
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    return found


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (12, "12 s"), (185, "3:05"), (7385, "2:03:05"), (3 * 86400 + 4 * 3600 + 300, "3 d 04:05")],
)
def test_durations_are_short(seconds, text):
    assert format_duration(seconds) == text


def test_without_a_terminal_a_line_is_printed_every_five_seconds_and_at_the_end(lines, clock):
    with track("encode", 40, "images") as tracker:
        for _ in range(4):
            clock[0] += 3.0
            tracker.advance(10)
    assert lines == ["encode: 20/40 images, 3.3 images/s, ETA 6 s", "encode: 40/40 images, 3.3 images/s"]


def test_what_an_earlier_run_finished_counts_as_done_but_not_into_the_rate(lines, clock):
    with track("train", 1000, "steps") as tracker:
        tracker.resume_at(900)
        clock[0] += 10.0
        tracker.advance(50)
        tracker.advance(50, "loss 0.1", rate=25.0)
    assert lines == ["train: 950/1,000 steps, 5.0 steps/s, ETA 10 s", "train: 1,000/1,000 steps, loss 0.1"]


def test_a_summary_names_the_next_command(lines):
    print_summary("crawl", {"images": 3, "failed": 0}, "emoji-ldm caption")
    assert lines == ["\n[bold]crawl[/bold]", "  images  3", "  failed  0", "next: emoji-ldm caption\n"]
