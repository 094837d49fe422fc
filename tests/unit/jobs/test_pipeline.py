"""What `emoji-ldm pipeline` finds out before its first stage."""

import shlex

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
    assert pipeline._next_command("crawl") == "emoji-ldm caption --config 'my file.yaml' store=s3://b/x branch=try"


@pytest.mark.parametrize(("stage", "words", "command"), [
    ("latents", ["latents", "latents.vae=my vae", "latents.size_px=64"],
     "emoji-ldm train 'latents.vae=my vae' latents.size_px=64"),
    ("latents", ["latents", "--as-of", "v1", "--config=my file.yaml"],
     "emoji-ldm train --config 'my file.yaml' as_of=v1"),
    ("autoencoder", ["train", "autoencoder", "autoencoder.steps=9", "train.seed=3"],
     "emoji-ldm latents train.seed=3"),
    ("train", ["train", "train.num_workers=8", "run=a"], "emoji-ldm generate 'a happy blob' run=a"),
    ("train", ["pipeline", "train"], ""),
])  # fmt: skip
def test_the_next_command_can_be_typed_as_it_is(stage, words, command, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["emoji-ldm", *words])
    assert pipeline._next_command(stage) == command
    if command and "my file" not in command:
        assert main([*shlex.split(command)[1:], "--dry-run"]) == 0, capsys.readouterr().err
