"""The command line of `emoji-ldm cluster`."""

import pytest

from ray_jobs.cli.main import main
from ray_jobs.cli.parser import build_parser


@pytest.mark.parametrize("verb", ["up", "status", "submit", "logs", "down", "check", "simulate"])
def test_help_of_every_verb_shows_an_example(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        build_parser().parse_args(["cluster", verb, "--help"])
    assert stop.value.code == 0
    assert f"emoji-ldm cluster {verb}" in capsys.readouterr().out.split("examples:")[1]


@pytest.mark.parametrize(("words", "text"), [
    (["up", "--overlay", "nope"], "no overlay 'nope' in k8s/overlays (there are: dev, eks, kind, kind-minio)"),
    (["up", "--overlay", "kind", "--manifests", "infra"], "no manifests in infra: run from a clone of the project"),
])  # fmt: skip
def test_manifests_that_are_not_there_are_one_line(words, text, capsys):
    assert main(["cluster", *words]) == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1 and error.startswith("error: ")


def test_an_overlay_must_be_named(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["cluster", "submit", "train"])
    assert stop.value.code == 2 and "--overlay" in capsys.readouterr().err
