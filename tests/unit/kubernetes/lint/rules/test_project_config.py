"""The rules about the configuration of this project: commands, overrides and the config of Serve inside manifests."""

import pytest

from emoji_ldm.kubernetes.lint.rules import project_config
from emoji_ldm.kubernetes.lint.rules.project_config import COMMANDS
from tests.command_line import command_names
from tests.manifests.operators import JOB, SERVICE
from tests.unit.kubernetes.lint.rules.rule_cases import (
    assert_broken_rule_is_noticed,
    assert_obeyed_rule_has_no_findings,
    found_by,
    rules_in,
)


@pytest.mark.parametrize("rule", rules_in(project_config))
def test_a_broken_rule_about_our_configuration_is_noticed(rule):
    assert_broken_rule_is_noticed(rule)


@pytest.mark.parametrize("rule", rules_in(project_config))
def test_an_obeyed_rule_about_our_configuration_has_no_findings(rule):
    assert_obeyed_rule_has_no_findings(rule)


@pytest.mark.parametrize("word", ["'train.setps=9'", '"train.lr=much"', "'crawl.tag=[Blobs, Cat]'", "Train.steps=9"])
def test_overrides_in_quotes_are_read_as_the_shell_does(word):
    assert found_by("overrides are fields of the config", JOB, {"spec.entrypoint": f"emoji-ldm train {word}"})


def test_an_override_with_a_blank_is_one_word():
    edits = {"spec.entrypoint": "emoji-ldm crawl 'crawl.tags=[Blobs, Cat]'"}
    assert not found_by("overrides are fields of the config", JOB, edits)


@pytest.mark.parametrize(("words", "wrong"), [("-c /nope.yaml", True), ("--config=/nope.yaml", True),
                                              ("--config demo", False), ("-c dreambooth", False)])  # fmt: skip
def test_a_config_is_a_mounted_file_or_a_preset(words, wrong):
    edits = {"spec.entrypoint": f"emoji-ldm train {words}"}
    assert bool(found_by("configs lie where commands look", JOB, edits)) is wrong


def test_an_empty_command_is_a_finding():
    assert not found_by("configs lie where commands look", JOB, {"spec.entrypoint": ""})
    assert found_by("entrypoints are commands", JOB, {"spec.entrypoint": ""})


@pytest.mark.parametrize("text", ["applications: [serve]", "applications: serve", "applications: {a: b}", "[1]", "",
                                  "a", "applications: [{import_path: 'a:b', args: x}]"])  # fmt: skip
def test_a_config_of_serve_of_a_wrong_form_is_a_finding(text):
    assert found_by("the serve config is ours", SERVICE, {"spec.serveConfigV2": text})


def test_the_words_that_entrypoints_may_use_are_commands_of_ours():
    assert command_names() >= COMMANDS


def test_the_autoencoder_is_trained_by_a_word_of_train_and_is_no_command():
    assert found_by("entrypoints are commands", JOB, {"spec.entrypoint": "emoji-ldm autoencoder"})
    assert not found_by("entrypoints are commands", JOB, {"spec.entrypoint": "emoji-ldm train autoencoder"})
