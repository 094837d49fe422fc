"""Every rule of the check notices its own slip and nothing else nearby; the good overlay breaks none."""

import pytest
from ray.scripts.scripts import start

from emoji_ldm.cluster.check.rendering import name_of
from emoji_ldm.cluster.check.rules import RULES, broken
from emoji_ldm.cluster.check.rules.place import places
from emoji_ldm.cluster.check.vocabulary import START_OPTIONS
from emoji_ldm.cluster.check.whole import problems
from tests.manifests.cases import CASES
from tests.manifests.good import edited, world
from tests.manifests.operators import OPERATORS


def found_by(rule, name, edits):
    """The places where one rule finds something in the edited object."""
    thing, around = edited(name, edits)
    return [path for one, path, _ in broken(thing, around) if one.name == rule]


def test_the_good_overlay_breaks_no_rule():
    good = world()
    assert {name_of(one): found for one in good.things if (found := list(problems(one, good)))} == {}


def test_every_rule_has_its_case_and_says_who_demands_it():
    assert set(CASES) == set(RULES)
    assert len(OPERATORS) >= 60
    assert [rule.name for rule in RULES.values() if not rule.source] == []
    print(f"\n{len(RULES)} rules, {len(OPERATORS)} of them of KubeRay and Kueue")


@pytest.mark.parametrize("rule", CASES)
def test_a_broken_rule_is_noticed(rule):
    name, slip, _ = CASES[rule]
    assert found_by(rule, name, slip)


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_that_is_kept_is_silent(rule):
    name, _, kept = CASES[rule]
    thing, around = edited(name, kept)
    scopes = {scope for scope, _ in places(thing, around, [])}
    assert not found_by(rule, name, kept)
    assert RULES[rule].scope in scopes | {"pod", "container"}
    assert not RULES[rule].kinds or thing["kind"] in RULES[rule].kinds


def test_the_start_options_are_those_of_ray():
    assert {word.lstrip("-") for one in start.params for word in (*one.opts, *one.secondary_opts)} == START_OPTIONS
