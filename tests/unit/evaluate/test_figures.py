"""Gates: what they say, when they fail, and which are refused."""

import pytest

from emoji_ldm.errors import ConfigError
from emoji_ldm.evaluate.figures import FIGURES, QualityGate, failed_gates


@pytest.mark.parametrize(
    ("text", "value", "fails"),
    [
        ("kid > 0.05", 0.06, True), ("kid > 0.05", 0.05, False), ("kid>=.05", 0.05, True),
        ("coverage < 1e-1", 0.05, True), ("coverage <= 0.5", 0.6, False), ("copy_rate > -1", 0.0, True),
    ],
)  # fmt: skip
def test_a_gate_fails_where_its_condition_is_true(text, value, fails):
    gate = QualityGate.parse(text)
    assert bool(gate.failure({gate.name: value})) == fails


def test_a_figure_that_could_not_be_measured_fails_its_gate():
    assert failed_gates(
        [QualityGate.parse("clip_score < 20")], {"a": {"clip_score": None}, "b": {"clip_score": 30.0}}
    ) == ["a: clip_score could not be measured (gate clip_score < 20)"]


@pytest.mark.parametrize(
    ("text", "says"),
    [("kid", "FIGURE > NUMBER"), ("kid > a lot", "FIGURE > NUMBER"), ("kid = 0.05", "FIGURE > NUMBER"),
     ("fid > 5", "no figure 'fid'; the figures are: kid")],
)  # fmt: skip
def test_a_gate_that_cannot_be_read_is_refused_with_the_reason(text, says):
    with pytest.raises(ConfigError, match=says):
        QualityGate.parse(text)


def test_figures_on_other_features_are_never_called_fid():
    assert all("FID" not in kind.label for kind in FIGURES.values())
    assert all("EfficientNet-Lite0" in FIGURES[name].label for name in ("kid", "frechet_lite0"))


def test_a_figure_that_is_missing_is_a_dash():
    assert FIGURES["precision"].text(None) == "–" and FIGURES["precision"].text(0.123) == "12.3%"
