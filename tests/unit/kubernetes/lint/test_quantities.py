"""Quantities and durations mean what Kubernetes and Go say."""

from fractions import Fraction

import pytest

from emoji_ldm.kubernetes.lint.quantities import duration_s, quantity


@pytest.mark.parametrize("text, number", [
    ("500m", Fraction(1, 2)), (2, 2), ("0.1", Fraction(1, 10)), ("1.5e9", 1_500_000_000), ("1k", 1000), ("1Ki", 1024),
    ("8Gi", 8 * 2**30), ("1E", 10**18), ("2E3", 2000), ("-1", -1), ("5.", 5), (".5", Fraction(1, 2)),
    ("1n", Fraction(1, 10**9)),
])  # fmt: skip
def test_a_quantity_is_an_exact_number(text, number):
    assert quantity(text) == number


@pytest.mark.parametrize("text", ["1GB", "8 Gi", "eight", "", ".", "1K", "1e", True, None, ["1"]])
def test_what_kubernetes_does_not_read_as_a_quantity_is_none(text):
    assert quantity(text) is None


@pytest.mark.parametrize("text, seconds", [("30m", 1800), ("1h30m", 5400), ("1.5s", 1.5), ("250ms", 0.25), ("0", 0),
                                           ("-2m", -120), ("1m1s", 61)])  # fmt: skip
def test_a_duration_is_a_number_of_seconds(text, seconds):
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["soon", "30", "1d", "", "m", "1h 30m", 30, None])
def test_what_go_does_not_read_as_a_duration_is_none(text):
    assert duration_s(text) is None
