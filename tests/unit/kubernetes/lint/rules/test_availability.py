"""The rules about availability: each notices what breaks it, and nothing else."""

import pytest

from emoji_ldm.kubernetes.lint.rules import availability
from tests.unit.kubernetes.lint.rules.rule_cases import (
    assert_broken_rule_is_noticed,
    assert_obeyed_rule_has_no_findings,
    rules_in,
)


@pytest.mark.parametrize("rule", rules_in(availability))
def test_a_broken_rule_about_availability_is_noticed(rule):
    assert_broken_rule_is_noticed(rule)


@pytest.mark.parametrize("rule", rules_in(availability))
def test_an_obeyed_rule_about_availability_has_no_findings(rule):
    assert_obeyed_rule_has_no_findings(rule)
