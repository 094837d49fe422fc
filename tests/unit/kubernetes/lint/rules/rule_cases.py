"""The cases of each module of rules, and what they have to show; the test files of the modules share them."""

from emoji_ldm.kubernetes.lint.rules import RULES, violations
from emoji_ldm.kubernetes.lint.rules.rule import rule_targets
from tests.manifests.cases import CASES
from tests.manifests.good import edited


def rules_in(module):
    """The names of the rules that a module defines."""
    return [rule.name for rule in RULES.values() if rule.find.__module__ == module.__name__]


def found_by(rule, name, edits):
    """What one rule says about the edited object."""
    obj, around = edited(name, edits)
    return [text for one, _, text in violations(obj, around) if one.name == rule]


def assert_broken_rule_is_noticed(rule):
    name, slip, _ = CASES[rule]
    assert found_by(rule, name, slip)


def assert_obeyed_rule_has_no_findings(rule):
    """The rule is also one that looks at this object: otherwise it could have no findings there."""
    name, _, kept = CASES[rule]
    obj, around = edited(name, kept)
    scopes = {scope for scope, _ in rule_targets(obj, around, [])}
    assert not found_by(rule, name, kept)
    assert RULES[rule].scope in scopes | {"pod", "container"}
    assert not RULES[rule].kinds or obj["kind"] in RULES[rule].kinds
