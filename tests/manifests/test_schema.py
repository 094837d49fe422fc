"""Every object passes strict checks, and the checks are sharp enough to notice a slip."""

import copy
import random
import shutil
import subprocess

import pytest

from tests.manifests.render import K8S, ROOTS, SOURCES, name_of, parse, rendered
from tests.manifests.rules import broken_rules
from tests.manifests.schema import custom_schema, free_maps, problems
from tests.manifests.tool import render_command


@pytest.mark.parametrize("root", ROOTS)
def test_every_rendered_object_is_valid(root):
    assert {name_of(thing): found for thing in rendered(root) if (found := problems(thing))} == {}


@pytest.mark.parametrize("path", [path for path in SOURCES if path.parent == K8S / "base"], ids=lambda path: path.stem)
def test_no_source_file_has_an_unknown_field(path):
    for thing in parse(path.read_text()):
        assert problems(thing, partial=True) == []


@pytest.mark.parametrize("root", ROOTS)
def test_each_object_stands_once(root):
    names = [name_of(thing) for thing in rendered(root)]
    assert len(names) == len(set(names))
    assert all(thing["metadata"].get("namespace", "emoji-ldm") == "emoji-ldm" for thing in rendered(root))


@pytest.mark.parametrize("wrong", [
    ("spec", "rayVersion", 2.6), ("spec", "enableInTreeAutoscaling", "yes"), ("spec", "rayversion", "2.60.0"),
    ("spec", "autoscalerOptions", {"version": "v3"}), ("spec", "authOptions", {"mode": "tokens"}),
    ("metadata", "lables", {}),
], ids=str)  # fmt: skip
def test_a_slip_is_caught(wrong):
    section, field, value = wrong
    cluster = next(thing for thing in rendered("base") if thing["kind"] == "RayCluster")
    broken = copy.deepcopy(cluster)
    broken[section][field] = value
    assert problems(broken)


def test_nearly_every_misspelt_key_is_caught(record_property):
    """Mutation score: one key of one object renamed or, below its parent, lost its last letter."""
    caught, missed = 0, []
    chance = random.Random(0)
    for thing in rendered("base"):
        places = list(_keys(thing, set(_free(thing))))
        for path in chance.sample(places, min(40, len(places))):
            if problems(_misspell(thing, path, chance)):
                caught += 1
            else:
                missed.append(f"{name_of(thing)} {'.'.join(map(str, path))}")
    score = caught / (caught + len(missed))
    record_property("mutation_score", score)
    print(f"\nmutation score: {caught} of {caught + len(missed)} misspelt keys caught ({score:.1%}); missed: {missed}")
    assert score >= 0.95


def test_most_misspelt_keys_of_free_maps_are_caught_by_our_own_rules():
    """Start options and resource names are free maps to the schema; only labels and annotations stay unchecked."""
    caught, missed = 0, []
    chance = random.Random(1)
    for thing in rendered("base"):
        if custom_schema(thing) is None:
            continue
        places = list(_keys(thing["spec"], set(), ("spec",)))
        for path in chance.sample(places, 30):
            broken = _misspell(thing, path, chance)
            if problems(broken) or broken_rules(broken):
                caught += 1
            else:
                missed.append(f"{name_of(thing)} {'.'.join(map(str, path))}")
    print(f"\nwith free maps: {caught} of {caught + len(missed)} misspelt keys caught; missed: {missed}")
    assert caught / (caught + len(missed)) >= 0.95


def test_a_patch_that_hits_nothing_breaks_the_render(tmp_path):
    rendered("base")  # skips without kustomize
    shutil.copytree(K8S, tmp_path / "k8s")
    patch = tmp_path / "k8s" / "overlays" / "dev" / "small-job.yaml"
    patch.write_text(patch.read_text().replace("/headGroupSpec/", "/headGroup/"))
    assert subprocess.run([*render_command(), str(patch.parent)], capture_output=True).returncode != 0


def _free(thing):
    yield ("metadata", "labels")
    yield ("metadata", "annotations")
    schema = custom_schema(thing)
    if schema is not None:
        yield from free_maps(thing["spec"], schema["properties"]["spec"], ("spec",))
    else:
        yield from _open_maps(thing)


def _open_maps(value, path=()):
    """Free maps of built-in kinds, by name: their schema files are not ours to walk."""
    open_names = {"labels", "annotations", "matchLabels", "selector", "data", "requests", "limits", "nodeSelector"}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        if name in open_names and isinstance(item, dict) and "matchLabels" not in item:
            yield (*path, name)
        yield from _open_maps(item, (*path, name))


def _keys(value, free, path=()):
    if path in free:
        return
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*path, key)
            yield from _keys(item, free, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _keys(item, free, (*path, index))


def _misspell(thing, path, chance):
    broken = copy.deepcopy(thing)
    place = broken
    for step in path[:-1]:
        place = place[step]
    key = path[-1]
    wrong = chance.choice([key[:-1] or "x", key + "s", key[0] + key[0] + key[1:], key.swapcase()])
    place[wrong] = place.pop(key)
    return broken
