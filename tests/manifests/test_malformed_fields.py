"""A missing, null or empty field may be a finding, but never crashes the check."""

import copy
import random

import pytest

from emoji_ldm.kubernetes.lint.context import LintContext
from emoji_ldm.kubernetes.lint.pods import value_at
from emoji_ldm.kubernetes.lint.rendering import name_of
from emoji_ldm.kubernetes.lint.runner import network_problems, overlay_problems
from tests.manifests.good import good_context, problems
from tests.manifests.mutations import CONFIG, keys

SHAPE = (
    "spec",
    "metadata",
    "template",
    "name",
    "labels",
    "containers",
    "selector",
    "data",
    "volumes",
    "resourceGroups",
)


def without(obj, path):
    broken = copy.deepcopy(obj)
    del value_at(broken, path[:-1])[path[-1]]
    return broken


def emptied(obj, path):
    broken = copy.deepcopy(obj)
    place = value_at(broken, path[:-1])
    place[path[-1]] = type(place[path[-1]])()
    return broken


@pytest.mark.parametrize("change", [without, emptied])
def test_no_missing_field_crashes_the_check(change):
    good, chance = good_context(), random.Random(3)
    places = [(index, path) for index, obj in enumerate(good.objects) for path in keys(obj)]
    for index, path in chance.sample([one for one in places if CONFIG not in one[1]], 120):
        broken = change(good.objects[index], path)
        around = LintContext((*good.objects[:index], broken, *good.objects[index + 1 :]), good.overlay, good.folder)
        list(problems(broken, around))
        if path[-1] in SHAPE and not list(overlay_problems(around)):
            list(network_problems(around))


def test_an_object_of_wrong_form_is_still_a_name_to_the_others():
    """Whoever misspells a key of a ConfigMap is not told that the ConfigMap is missing."""
    good = good_context()
    things = [{**one, "dat": {}} if name_of(one) == "ConfigMap/store" else one for one in good.objects]
    found = list(overlay_problems(LintContext(tuple(things), good.overlay, good.folder)))
    assert [(name_of(obj), text) for obj, _, text in found] == [("ConfigMap/store", "unknown field 'dat'")]
