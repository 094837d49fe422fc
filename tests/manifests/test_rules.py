"""Every rule finds its own mistake and accepts the correct variant; the good overlay breaks no rule."""

import pytest
import yaml
from ray.runtime_env import RuntimeEnv
from ray.scripts.scripts import start

from emoji_ldm.kubernetes.lint.k8s_enums import START_OPTIONS
from emoji_ldm.kubernetes.lint.pods import ray_job
from emoji_ldm.kubernetes.lint.rendering import name_of
from emoji_ldm.kubernetes.lint.rules import RULES, violations
from emoji_ldm.kubernetes.lint.rules.project_config import COMMANDS
from emoji_ldm.kubernetes.lint.rules.rule import rule_targets
from tests.command_line import command_names
from tests.manifests.cases import CASES
from tests.manifests.good import edited, good_context, problems
from tests.manifests.operators import OPERATORS
from tests.manifests.render import OVERLAYS, rendered


def found_by(rule, name, edits):
    """The places where one rule finds something in the edited object."""
    obj, around = edited(name, edits)
    return [path for one, path, _ in violations(obj, around) if one.name == rule]


def test_the_good_overlay_breaks_no_rule():
    good = good_context()
    assert {name_of(one): found for one in good.objects if (found := list(problems(one, good)))} == {}


def test_every_rule_has_a_test_case_and_a_source():
    assert set(CASES) == set(RULES)
    assert len(OPERATORS) >= 60
    assert [rule.name for rule in RULES.values() if not rule.source] == []
    print(f"\n{len(RULES)} rules, {len(OPERATORS)} of them of KubeRay and Kueue")


@pytest.mark.parametrize("rule", CASES)
def test_a_broken_rule_is_noticed(rule):
    name, slip, _ = CASES[rule]
    assert found_by(rule, name, slip)


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_that_is_obeyed_has_no_findings(rule):
    name, _, kept = CASES[rule]
    obj, around = edited(name, kept)
    scopes = {scope for scope, _ in rule_targets(obj, around, [])}
    assert not found_by(rule, name, kept)
    assert RULES[rule].scope in scopes | {"pod", "container"}
    assert not RULES[rule].kinds or obj["kind"] in RULES[rule].kinds


def test_the_words_that_entrypoints_may_use_are_commands_of_ours():
    assert command_names() >= COMMANDS - {"autoencoder"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ray_accepts_every_runtime_environment(overlay):
    """No job of ours needs one: the images hold everything. Whoever adds one has it checked here."""
    texts = [job[1].get("runtimeEnvYAML") for obj in rendered(overlay) if (job := ray_job(obj))]
    assert texts
    for text in [*texts, CASES["the runtime environment is a mapping"][2]["spec.runtimeEnvYAML"]]:
        RuntimeEnv(**(yaml.safe_load(text or "") or {}))


def test_the_start_options_are_those_of_ray():
    assert {word.lstrip("-") for one in start.params for word in (*one.opts, *one.secondary_opts)} == START_OPTIONS
