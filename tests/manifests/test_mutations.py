"""Mutation test of the check: the share of misspelt keys and wrong values in all overlays that it finds."""

import collections
import random

import pytest

from emoji_ldm.kubernetes.lint.context import LintContext
from emoji_ldm.kubernetes.lint.rendering import name_of
from emoji_ldm.kubernetes.lint.runner import network_problems
from tests.manifests.good import problems
from tests.manifests.mutations import keys, misspelt, with_value, wrong_values
from tests.manifests.render import K8S, OVERLAYS, rendered

PER_OBJECT = 2  # of each object of each overlay: some 700 slips; more tell the same and take longer


def slips_of_keys(obj, chance):
    places = list(keys(obj))
    return [("key", path, misspelt(obj, path, chance)) for path in chance.sample(places, min(PER_OBJECT, len(places)))]


def slips_of_values(obj, chance):
    """Of each object some classes, of each class one place: rare ones (images, durations) count as labels do."""
    classes, made = collections.defaultdict(list), []
    for kind, path, values in wrong_values(obj):
        classes[kind].append((path, values))
    for kind in chance.sample(sorted(classes), min(PER_OBJECT, len(classes))):
        path, values = chance.choice(classes[kind])
        value = chance.choice(values)
        made.append((kind, (*path, value), with_value(obj, path, value)))
    return made


def noticed(broken, around, known):
    """Whether the check says of the broken object, or of others because of it, what it did not say before."""
    if any((name_of(broken), path, text) not in known for path, text in problems(broken, around)):
        return True
    others = ((one, path, text) for one in around.objects if one is not broken for path, text in problems(one, around))
    return any((name_of(one), path, text) not in known for one, path, text in others) or any(network_problems(around))


def missed(slips, seed):
    """(how many slips of each class, those that the check did not notice) over all overlays."""
    chance, counted, left = random.Random(seed), collections.Counter(), []
    for overlay in OVERLAYS:
        things = rendered(overlay)
        whole = LintContext(tuple(things), overlay, K8S)
        known = {(name_of(one), path, text) for one in things for path, text in problems(one, whole)}
        for index, obj in enumerate(things):
            for kind, where, broken in slips(obj, chance):
                counted[kind] += 1
                around = LintContext((*things[:index], broken, *things[index + 1 :]), overlay, K8S)
                if not noticed(broken, around, known):
                    left.append(f"{overlay} {name_of(obj)} {kind} {'.'.join(map(str, where))}")
    return counted, left


@pytest.mark.parametrize("slips, floor", [(slips_of_keys, 0.98), (slips_of_values, 0.95)], ids=["keys", "values"])
def test_nearly_every_slip_is_noticed(slips, floor, record_property):
    counted, left = missed(slips, seed=0)
    total = sum(counted.values())
    score = 1 - len(left) / total
    record_property("mutation_score", score)
    print(f"\n{total - len(left)} of {total} slips noticed ({score:.1%}): {dict(counted)}; missed: {left}")
    assert total >= 300
    assert score >= floor
