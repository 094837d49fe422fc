"""A finding as users read it."""

from emoji_ldm.kubernetes.lint.finding import Finding


def test_a_finding_is_one_line():
    assert str(Finding("k8s/base/train.yaml", 3, "RayJob/train", "no")) == "k8s/base/train.yaml:3: RayJob/train: no"


def test_findings_are_sorted_by_file_and_line():
    late, early, other = Finding("b", 9, "A/a", ""), Finding("b", 10, "A/a", ""), Finding("a", 99, "Z/z", "z")
    assert sorted([early, late, other]) == [other, late, early]
