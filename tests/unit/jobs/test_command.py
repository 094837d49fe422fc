"""How a function becomes a command: words, overrides, shortcuts, parsing without running."""

import pytest
from typer.exceptions import TyperException

from emoji_ldm.errors import ConfigError
from ray_jobs.cli.command import Shortcut, configured, did_you_mean, new_app, one_word, split_words
from tests.command_line import parse


@pytest.mark.parametrize(
    ("words", "plain", "overrides"),
    [
        (["a cat", "train.lr=1e-4"], ["a cat"], ["train.lr=1e-4"]),
        (["run=demo", "autoencoder"], ["autoencoder"], ["run=demo"]),
        (["2 + 2 = 4", "=x", "images@3"], ["2 + 2 = 4", "=x", "images@3"], []),
        (["crawl.tags=[a,\nb]"], [], ["crawl.tags=[a,\nb]"]),
        (["serve.models.sd-1_5=./sd"], [], ["serve.models.sd-1_5=./sd"]),
    ],
)
def test_words_with_a_dotted_name_before_an_equals_sign_are_overrides(words, plain, overrides):
    assert split_words(words) == (plain, overrides)


def command_line(**settings):
    """Runs an app with one command, `go`; what the command gets is in the list."""
    app, calls = new_app(), []

    @app.callback()
    def root() -> None:
        """With a callback, Typer keeps the name of a single command."""

    @configured(app, "go", examples=["emoji-ldm go"], **settings)
    def go(config, words, *, times: int = 1) -> int:
        """Do it."""
        calls.append((config, words, times))
        return 7

    return lambda *words: app(["go", *words], standalone_mode=False), calls


def test_a_command_gets_the_resolved_configuration_its_words_and_its_options():
    run, calls = command_line(words="thing")
    assert run("this", "run=mine", "--times", "3", "that") == 7
    ((config, words, times),) = calls
    assert (config.run, words, times) == ("mine", ["this", "that"], 3)


def test_a_command_without_words_refuses_them(capsys):
    run, calls = command_line()
    assert run("this") == 2 and not calls
    assert "go does not take 'this'" in capsys.readouterr().err


def test_a_dry_run_prints_the_configuration_and_does_nothing_else(capsys):
    run, calls = command_line()
    assert run("--dry-run", "run=mine") == 0 and not calls
    assert capsys.readouterr().out.startswith("run: mine\n")


def test_a_shortcut_stands_for_an_override_and_wins():
    flag, value = Shortcut("mine", "run=mine", "help"), Shortcut("as-of", "as_of={}", "help", "POINT")
    run, calls = command_line(shortcuts=[flag, value])
    run("run=other", "--mine", "--as-of", "v1")
    run("run=other")
    assert [(config.run, config.as_of) for config, _, _ in calls] == [("mine", "v1"), ("other", None)]


def test_a_check_of_the_words_comes_before_a_dry_run():
    def prepare(config, words):
        raise ConfigError("no")

    run, calls = command_line(words="thing", prepare=prepare)
    assert run("--dry-run", "this") == 2 and not calls


def test_a_command_line_is_parsed_without_being_run():
    found = parse(["dataset", "diff", "v1", "--rows", "9"])
    assert (found.info_name, found.params["rows"], found.params["words"]) == ("diff", 9, ["v1"])
    with pytest.raises(TyperException, match="--rowz"):
        parse(["dataset", "diff", "--rowz", "9"])
    with pytest.raises(ConfigError, match="dataset needs a command"):
        parse(["dataset"])


def test_the_nearest_name_is_offered_only_if_it_is_near():
    assert did_you_mean("trian", ["train", "crawl"]) == "; did you mean 'train'?"
    assert did_you_mean("zzz", ["train"]) == ""


def test_one_word_is_one():
    assert one_word(["a"], "rule") == "a"
    with pytest.raises(ConfigError, match="rule, not a b"):
        one_word(["a", "b"], "rule")
    with pytest.raises(ConfigError, match="rule, not none"):
        one_word([], "rule")
