"""Label selectors, tolerations and flavors match as Kubernetes and Kueue say."""

import pytest

from emoji_ldm.kubernetes.lint.selectors import fits_flavor, selects, tolerates


@pytest.mark.parametrize("selector, matches", [
    ({}, True), ({"matchLabels": {"a": "1"}}, True), ({"matchLabels": {"a": "2"}}, False),
    ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, True),
    ({"matchExpressions": [{"key": "b", "operator": "In", "values": ["1"]}]}, False),
    ({"matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["1"]}]}, True),
    ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, True),
    ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, False),
    ({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, False),
], ids=str)  # fmt: skip
def test_a_selector_means_what_kubernetes_says(selector, matches):
    assert selects(selector, {"a": "1"}) is matches


@pytest.mark.parametrize("toleration, matches", [
    ({"operator": "Exists"}, True), ({"key": "gpu", "operator": "Exists"}, True),
    ({"key": "spot", "operator": "Exists"}, False), ({"key": "gpu", "value": "yes"}, True),
    ({"key": "gpu"}, False), ({"key": "gpu", "operator": "Equal", "value": "no"}, False),
    ({"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}, True),
    ({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}, False),
], ids=str)  # fmt: skip
def test_a_toleration_means_what_kubernetes_says(toleration, matches):
    assert tolerates(toleration, {"key": "gpu", "value": "yes", "effect": "NoSchedule"}) is matches


TAINTED = {"nodeLabels": {"pool": "gpu"}, "nodeTaints": [{"key": "gpu", "effect": "NoSchedule"}]}


@pytest.mark.parametrize("spec, fits", [
    ({}, False), ({"tolerations": [{"key": "gpu", "operator": "Exists"}]}, True),
    ({"tolerations": [{"key": "gpu"}], "nodeSelector": {"pool": "gpu"}}, True),
    ({"tolerations": [{"key": "gpu"}], "nodeSelector": {"pool": "cpu"}}, False),
    ({"tolerations": [{"key": "gpu"}], "nodeSelector": {"zone": "a"}}, True),
], ids=str)  # fmt: skip
def test_a_pod_fits_a_flavor_whose_taints_it_tolerates_and_whose_labels_it_does_not_contradict(spec, fits):
    assert fits_flavor(spec, TAINTED) is fits


def test_the_tolerations_of_a_flavor_are_added_to_those_of_the_pod():
    assert fits_flavor({}, {**TAINTED, "tolerations": [{"key": "gpu", "operator": "Exists"}]})
