"""The command `emoji-ldm cluster simulate`: its table, its files, and what has not ended and why."""

import json

import pytest
from rich.console import Console

from emoji_ldm.kubernetes.simulation.report import print_report, span, summarize
from ray_jobs.cli.main import main
from tests.emoji_server import ROOT
from tests.unit.kubernetes.simulation.small_scenarios import simulate, small


@pytest.fixture
def command(capsys):
    def run(*arguments):
        code = main(["cluster", "simulate", "--manifests", str(ROOT / "k8s"), *arguments])
        return code, *capsys.readouterr()

    return run


def printed(values, capsys):
    print_report(summarize(simulate(values)), Console(markup=False, width=200))
    return capsys.readouterr().out


def test_a_missing_scenario_names_the_presets(command):
    code, _, error = command("nowhere.yaml")
    assert code == 2 and "no scenario 'nowhere.yaml': name a file, or one of plan, scale, storm" in error


@pytest.mark.slow
def test_json_and_the_files_tell_the_same(command, tmp_path):
    code, text, _ = command("storm", "--json", "--output", str(tmp_path / "out"))
    told = json.loads(text)
    assert code == 0 and told == json.loads((tmp_path / "out" / "simulation.json").read_text())
    assert "<svg" in (tmp_path / "out" / "simulation.svg").read_text()
    assert told["spot"]["storms"][0] == {"at_s": 7200.0, "lost": 6, "of": 64}
    assert not any(told["violations"].values()) and not told["open"]


@pytest.mark.slow
def test_the_plan_yields_the_figures_of_the_runbook(command):
    code, text, _ = command()
    assert code == 0 and "in all 10.7 days, $45,826: " in text


@pytest.mark.slow  # renders an overlay
def test_overrides_may_stand_after_options(command):
    code, _, error = command("plan", "--json", "work.crawl.rat=1")
    assert code == 2 and "work.crawl.rat: extra inputs" in error


def test_a_plan_that_cannot_be_carried_out_fails_and_says_why(command, tmp_path):
    values = small(days=0.02)
    values["queues"]["batch"]["nominal"]["gpu"]["nvidia.com/gpu"] = 4
    (tmp_path / "small.yaml").write_text(json.dumps(values))
    code, text, _ = command(str(tmp_path / "small.yaml"))
    assert code == 1 and "caption pending: the limit of quota of gpu can never suffice" in " ".join(text.split())
    assert "bounded most of the time: caption by quota of gpu" in text


def test_what_still_waits_has_waited_and_the_report_names_its_reason(capsys):
    values = small(days=0.02, work={"copies": 12})
    values["queues"]["batch"]["nominal"]["gpu"]["nvidia.com/gpu"] = 8
    told = summarize(simulate(values))
    waiting = [run for run in told["open"] if run["stage"] == "pending"]
    assert len(waiting) == 10 and told["work"][0]["queued_s"] == pytest.approx(0.02 * 86400)
    assert waiting[0]["reason"] == "the limit of quota of gpu is in use: nvidia.com/gpu 8 wanted, 0 of 8 free"


def test_names_are_shown_as_they_are_written(capsys):
    text = printed(small(about="512 px [a100] [/x]"), capsys)
    assert "512 px [a100] [/x]" in text and "caption by workers" in text and "gpu 1 of 8" in text


def test_durations_are_short():
    assert [span(seconds) for seconds in (42, 720, 34_560, 743_040)] == ["42 s", "12 min", "9.6 h", "8.6 days"]
