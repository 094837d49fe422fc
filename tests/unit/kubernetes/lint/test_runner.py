"""The stages of the check: forms, rules and admission; a missing, null or empty field never crashes any of them."""

import copy
import random

import pytest
import yaml

from emoji_ldm.kubernetes.lint import check, runner
from emoji_ldm.kubernetes.lint.context import LintContext
from emoji_ldm.kubernetes.lint.pods import value_at
from emoji_ldm.kubernetes.lint.rendering import name_of
from emoji_ldm.kubernetes.lint.runner import network_problems, overlay_problems, placeholders
from tests.manifests.cached_overlays import cached_objects
from tests.manifests.good import good_context, problems
from tests.manifests.mutations import CONFIG, keys
from tests.manifests.render import K8S

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


@pytest.mark.slow
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


def test_what_is_yet_to_be_filled_in_is_found_in_a_base_too(tmp_path, monkeypatch):
    """Findings about such a value are kept back: it would pass the check unseen."""
    files = {"overlays/mine/kustomization.yaml": "resources: [../../base]\n",
             "base/kustomization.yaml": "resources: [all.yaml]\n",
             "base/all.yaml": "kind: ConfigMap\nmetadata: {name: a}\ndata:\n  b: FILL-ME-IN  # the b: write one\n",
             "components/unused/all.yaml": "data: {c: FILL-ME-IN}\n"}  # fmt: skip
    for name, text in files.items():
        (tmp_path / "k8s" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "k8s" / name).write_text(text)
    things = (yaml.safe_load(files["base/all.yaml"]),)
    (found,) = placeholders(tmp_path / "k8s", "mine", LintContext(things, "mine", tmp_path / "k8s"))
    assert str(found) == "k8s/base/all.yaml:4: site: the b is missing: write one"
    monkeypatch.chdir(tmp_path / "k8s")
    here = type(tmp_path)()
    assert [one.file for one in placeholders(here, "mine", LintContext(things, "mine", here))] == [found.file]


def test_the_check_names_what_would_be_refused_with_its_file_and_line(monkeypatch):
    train = next(obj for obj in cached_objects("kind") if name_of(obj) == "RayJob/train")
    told = [(train, "not today"), (train, "image FILL-ME-IN has no digest")]
    monkeypatch.setattr(runner, "form_problems", lambda *_: ())
    monkeypatch.setattr(runner, "rule_problems", lambda *_: ())
    monkeypatch.setattr(runner, "network_problems", lambda _: ())
    monkeypatch.setattr(runner.admission, "refusals", lambda _: told)
    (found,) = check(K8S, "kind")
    assert (found.object_name, found.message) == ("RayJob/train", "admission: not today")
    assert "name: train" in (K8S.parent / found.file).read_text()
