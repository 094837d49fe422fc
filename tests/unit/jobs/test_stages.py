"""The commands that run stages: which stage runs, with which words and options."""

import pytest

from ray_jobs import pipeline
from ray_jobs.cli.main import main


@pytest.fixture
def stages_run(monkeypatch):
    """Names of the stages that would run."""
    names = []
    monkeypatch.setattr(pipeline, "run_stage", lambda stage, config: names.append(stage))
    return names


def test_the_autoencoder_is_a_stage_of_its_own_and_nothing_may_follow_it(stages_run, capsys):
    assert main(["train"]) == 0 and main(["train", "autoencoder"]) == 0
    assert stages_run == ["train", "autoencoder"]
    assert main(["train", "autoencoder", "fast"]) == 2 and main(["train", "autoencodr"]) == 2
    errors = capsys.readouterr().err
    assert "train does not take 'fast'; options are written as" in errors and "did you mean 'autoencoder'?" in errors
    assert len(stages_run) == 2


def test_options_that_train_nothing_start_no_training(stages_run, tmp_path):
    words = ["train", f"store={tmp_path}", "run=none"]
    assert main([*words, "--export", str(tmp_path / "out")]) == 1 and main([*words, "--alias", "live"]) == 1
    assert not stages_run


def test_a_probe_takes_one_address(stages_run, capsys):
    assert main(["crawl", "probe"]) == 2
    assert "crawl probe takes one address" in capsys.readouterr().err and not stages_run


def test_each_command_runs_the_stage_of_its_name(stages_run):
    for name in ("crawl", "caption", "latents", "serve", "report"):
        assert main([name]) == 0
    assert stages_run == ["crawl", "caption", "latents", "serve", "report"]


def test_shortcuts_win_over_overrides(capsys):
    assert main(["crawl", "--retry", "failed", "crawl.refresh=false", "--refresh", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "retry: failed" in text and "refresh: true" in text
    assert main(["train", "--as-of", "2026-11-21T10:00", "--dry-run"]) == 0
    assert "as_of: 2026-11-21T10:00" in capsys.readouterr().out


def test_generate_takes_prompts_as_words(capsys):
    assert main(["generate", "a blue cat", "generate.seed=3", "x=y cat", "--dry-run"]) == 2
    assert main(["generate", "a blue cat", "generate.seed=3", "--dry-run"]) == 0
    assert "- a blue cat" in capsys.readouterr().out


def test_a_stage_says_that_it_starts_before_anything_is_loaded(stages_run, capsys):
    assert main(["crawl"]) == 0
    assert capsys.readouterr().err.splitlines()[0] == "crawl: starting"


def test_outcomes_of_a_store_without_a_crawl_are_an_error(tmp_path, capsys):
    assert main(["crawl", "outcomes", f"store={tmp_path}"]) == 2
    assert f"nothing was crawled into {tmp_path} yet" in capsys.readouterr().err
