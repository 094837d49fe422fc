"""The options of `emoji-ldm dataset`, as they reach the functions of `dataset_commands`."""

import pytest

from ray_jobs.cli import dataset_commands
from ray_jobs.cli.dataset import app
from ray_jobs.cli.main import main


@pytest.fixture
def called(monkeypatch):
    """The arguments of the calls that would do the work, without the configuration."""
    calls = []

    def record(config, *arguments, **options):
        calls.append((*arguments, options))
        return 0

    for name in ("show", "vacuum", "export"):
        monkeypatch.setattr(dataset_commands, name, record)
    return calls


@pytest.mark.parametrize("verb", [command.name for command in app.registered_commands])
def test_help_of_every_verb_shows_an_example(verb, capsys):
    assert main(["dataset", verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"emoji-ldm dataset {verb}" in text.split("examples:")[1]


@pytest.mark.parametrize("words", [["images"], ["--table", "images"]])
def test_a_table_is_a_word_or_an_option(words, called):
    assert main(["dataset", "show", *words]) == 0
    assert called == [("images", {})]


def test_two_tables_are_refused_with_the_name_of_the_command(called, capsys):
    assert main(["dataset", "show", "images", "captions"]) == 2
    assert "show takes one table, not images captions" in capsys.readouterr().err and not called


def test_a_vacuum_only_lists_unless_it_is_told_to_delete(called):
    assert main(["dataset", "vacuum"]) == 0 and main(["dataset", "vacuum", "images@3", "--apply"]) == 0
    assert [(words, options["apply"]) for words, options in called] == [([], False), (["images@3"], True)]


def test_an_export_gets_its_format_its_target_and_its_shares(called):
    words = ["hf", "./hub", "--parts", "train=0.9,val=0.1", "--license", "cc-by-4.0", "--captioned"]
    assert main(["dataset", "export", *words]) == 0
    [(options, _)] = called
    assert (options.format, options.target, options.license, options.captioned) == ("hf", "./hub", "cc-by-4.0", True)
    assert dict(options.splits) == {"train": 0.9, "val": 0.1}
