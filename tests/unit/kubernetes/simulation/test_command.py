"""The command `emoji-ldm cluster simulate`."""

import json
import subprocess
import sys

import pytest

from ray_jobs.cli.main import main
from tests.emoji_server import ROOT

K8S = ROOT / "k8s"


@pytest.fixture
def command(capsys):
    def run(*arguments):
        code = main(["cluster", "simulate", "--manifests", str(K8S), *arguments])
        return code, *capsys.readouterr()

    return run


def test_a_missing_scenario_names_the_presets(command):
    code, _, error = command("nowhere.yaml")
    assert code == 2 and "no scenario 'nowhere.yaml': name a file, or one of plan, scale, storm" in error


@pytest.mark.slow
def test_json_and_the_page_tell_the_same(command, tmp_path):
    code, printed, _ = command("storm", "--json", "--output", str(tmp_path / "out"))
    told = json.loads(printed)
    assert code == 0 and told == json.loads((tmp_path / "out" / "simulation.json").read_text())
    html = (tmp_path / "out" / "simulation.html").read_text()
    assert "{{" not in html and html.count("<figure>") == 4 and "<script" not in html
    assert told["spot"]["storms"][0] == {"at_s": 7200.0, "lost": 6, "of": 64}
    assert not any(told["invariants"].values()) and told["pods"]["created"] == told["pods"]["ended"]


@pytest.mark.slow
def test_the_plan_yields_the_figures_of_the_runbook(command):
    code, printed, _ = command()
    assert code == 0 and "in all 10.7 days, $45,835: " in printed


def test_overrides_may_stand_after_options(command):
    code, _, error = command("plan", "--seed", "3", "work.crawl.rat=1")
    assert code == 2 and "work.0.rat: extra inputs" in error


def test_what_published_figures_cannot_take_is_refused(command):
    code, _, error = command("--published", "--seed", "3")
    assert code == 2 and "--published has loads of its own" in error


@pytest.mark.slow
def test_the_help_of_the_command_loads_nothing_heavy():
    code = (
        "import sys, emoji_ldm.kubernetes.simulation.command;"
        "print([m for m in ('pydantic', 'yaml', 'rich', 'ray', 'torch', 'simpy') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT).strip() == "[]"
