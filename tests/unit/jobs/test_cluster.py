"""The command line of `emoji-ldm cluster`."""

import pytest

from ray_jobs.cli.main import main


@pytest.mark.parametrize("verb", ["up", "doctor", "render", "status", "logs", "down", "check", "simulate"])
def test_help_of_every_verb_shows_an_example(verb, capsys):
    assert main(["cluster", verb, "--help"]) == 0
    assert f"emoji-ldm cluster {verb}" in capsys.readouterr().out.split("examples:")[1]


@pytest.mark.parametrize(("words", "text"), [
    (["up", "--overlay", "nope"], "no overlay 'nope' in k8s/overlays (there are: dev, eks, kind, kind-minio)"),
    (["up", "--overlay", "kind", "--manifests", "infra"], "no manifests in infra: run from a clone of the project"),
])  # fmt: skip
def test_missing_manifests_are_reported_in_one_line(words, text, capsys):
    assert main(["cluster", *words]) == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1 and error.startswith("error: ")


def test_an_overlay_must_be_named(capsys):
    assert main(["cluster", "up"]) == 2
    assert "--overlay" in capsys.readouterr().err


def test_render_prints_what_up_applies_and_no_job(capsys):
    import yaml

    assert main(["cluster", "render", "--overlay", "dev"]) == 0
    objects = list(yaml.safe_load_all(capsys.readouterr().out))
    kinds = {obj["kind"] for obj in objects}
    assert {"Namespace", "StatefulSet", "RayService", "RayCronJob"} <= kinds
    assert "RayJob" not in kinds
