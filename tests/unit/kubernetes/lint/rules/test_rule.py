"""The registry of rules: each has cases and a source, its module runs them, and the good overlay breaks none."""

from pathlib import Path

from emoji_ldm.kubernetes.lint.rendering import name_of
from emoji_ldm.kubernetes.lint.rules import RULES
from tests.manifests.cases import CASES
from tests.manifests.good import good_context, problems
from tests.manifests.operators import OPERATORS


def test_the_good_overlay_breaks_no_rule():
    good = good_context()
    assert {name_of(one): found for one in good.objects if (found := list(problems(one, good)))} == {}


def test_every_rule_has_a_test_case_and_a_source():
    assert set(CASES) == set(RULES)
    assert len(OPERATORS) >= 60
    assert [rule.name for rule in RULES.values() if not rule.source] == []
    print(f"\n{len(RULES)} rules, {len(OPERATORS)} of them of KubeRay and Kueue")


def test_every_module_of_rules_has_a_test_file_that_runs_its_cases():
    for module in sorted({rule.find.__module__.rpartition(".")[2] for rule in RULES.values()}):
        text = (Path(__file__).parent / f"test_{module}.py").read_text()
        assert text.count(f'parametrize("rule", rules_in({module}))') == 2, module
