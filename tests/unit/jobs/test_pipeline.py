"""What `emoji-ldm pipeline` finds out before its first stage."""

import pytest

from ray_jobs import pipeline
from ray_jobs.cli.main import main


@pytest.mark.parametrize(("words", "ran"), [
    ([], []), (["train", "generate"], []), (["generate.seed=99999999999999999999", "generate.prompts=[a]"], []),
    (["generate.prompts=[a]"], list(pipeline.STAGE_ORDER)), (["train", "report"], ["train", "report"]),
])  # fmt: skip
def test_nothing_is_run_if_generate_would_have_nothing_to_draw_at_the_end(words, ran, monkeypatch, capsys):
    stages_run = []
    monkeypatch.setattr(pipeline, "run_stages", lambda stages, config: stages_run.extend(stages))
    assert main(["pipeline", *words]) == (0 if ran else 2)
    assert stages_run == ran
    assert ran or "error: nothing was run, since generate would stop: " in capsys.readouterr().err


def test_a_dry_run_refuses_an_unknown_stage(capsys):
    assert main(["pipeline", "--dry-run", "nonsense"]) == 2
    assert "error: pipeline has no stage 'nonsense' (the stages are" in capsys.readouterr().err
    assert main(["pipeline", "--dry-run", "train"]) == 0


def test_the_next_command_keeps_the_configuration_that_this_one_was_given(monkeypatch):
    words = ["emoji-ldm", "crawl", "-c", "my file.yaml", "store=s3://b/x", "crawl.tags=[A]", "branch=try"]
    monkeypatch.setattr("sys.argv", words)
    assert pipeline._next_command("crawl") == "emoji-ldm caption store=s3://b/x branch=try --config 'my file.yaml'"
