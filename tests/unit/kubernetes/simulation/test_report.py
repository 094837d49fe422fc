"""The report: what has not ended and why, and names as the user wrote them."""

import pytest
from rich.console import Console

from emoji_ldm.kubernetes.simulation.report import count, print_report, render_page, span, summarize
from tests.unit.kubernetes.simulation.small_scenarios import simulate, small


def test_unfinished_runs_are_reported_with_their_reason():
    values = small(days=0.02, work={"copies": 12, "name": "ca<ption"})
    values["queues"]["batch"]["nominal"]["gpu"]["nvidia.com/gpu"] = 8
    told = summarize(simulate(values))
    waiting = [run for run in told["open"] if run["stage"] == "pending"]
    assert len(waiting) == 10
    assert "insufficient unused quota for nvidia.com/gpu in flavor gpu, 8 more needed" in waiting[0]["reason"]
    assert "ca&lt;ption-5" in render_page(told) and "ca<ption" not in render_page(told)


def test_names_are_shown_as_they_are_written(capsys):
    values = small(about="512 px [a100] [/x]", work={"name": "caption[gpu]"})
    print_report(summarize(simulate(values)), Console(markup=False, width=200))
    printed = capsys.readouterr().out
    assert "512 px [a100] [/x]" in printed and "caption[gpu]" in printed


def test_what_still_waits_has_waited():
    values = small(days=0.02)
    values["queues"]["batch"]["nominal"]["gpu"]["nvidia.com/gpu"] = 4
    assert summarize(simulate(values))["work"][0]["queued_s"] == pytest.approx(0.02 * 86400)


def test_numbers_are_short():
    assert [span(seconds) for seconds in (42, 720, 34_560, 743_040)] == ["42 s", "12 min", "9.6 h", "8.6 days"]
    assert [count(number) for number in (999_061, 1e7, 1.741e9)] == ["999,061", "10.00 M", "1.74 G"]
