"""A small overlay that obeys every rule (good.yaml), and copies of it with one mistake."""

import copy
import functools
from pathlib import Path

import yaml

from emoji_ldm.kubernetes.lint.context import LintContext
from emoji_ldm.kubernetes.lint.pods import FieldPath, value_at
from emoji_ldm.kubernetes.lint.rendering import KubeObject, name_of
from emoji_ldm.kubernetes.lint.runner import form_problems, rule_problems

K8S = Path(__file__).parents[2] / "k8s"
GONE = object()  # as a value: the field is taken away


@functools.cache
def _things() -> tuple[KubeObject, ...]:
    versions = yaml.safe_load((K8S / "versions.yaml").read_text())
    images = versions["images"]
    store = next(name for name in images if name.endswith("seaweedfs"))
    values = {
        "RAY": str(versions["ray"]),
        "STORE": f"{store}:{images[store]}",
        "CPU": f"emoji-ldm-cpu:{images['emoji-ldm-cpu']}",
        "GPU": f"emoji-ldm-gpu:{images['emoji-ldm-gpu']}",
    }
    read = yaml.safe_load((Path(__file__).parent / "good.yaml").read_text())
    return tuple(copy.deepcopy(_filled(one, values)) for one in read["items"])


def _filled(value, values):
    if isinstance(value, dict):
        return {key: _filled(item, values) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, values) for item in value]
    return values.get(value, value) if isinstance(value, str) else value


def good_context() -> LintContext:
    """The good overlay."""
    return LintContext(_things(), "kind", K8S)


def problems(obj: KubeObject, context: LintContext) -> list[tuple[FieldPath, str]]:
    """What is wrong with one object of an overlay: its form, or the rules that it breaks if its form is right."""
    return list(form_problems(obj, context)) or list(rule_problems(obj, context))


def edited(name: str, edits: dict) -> tuple[KubeObject, LintContext]:
    """One object with some fields changed (path with dots, `~` for a dot in a key), and the overlay around it.

    A path that starts with `Kind/name:` changes another object.
    """
    things = {name_of(one): one for one in _things()}
    things.setdefault("Secret/a", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}})
    for path, value in edits.items():
        owner, _, inner = path.rpartition(":")
        key = owner or name
        things[key] = _edit(things[key], inner, value)
    return things[name], LintContext(tuple(things.values()), "kind", K8S)


def _edit(thing: KubeObject, path: str, value: object) -> KubeObject:
    broken = copy.deepcopy(thing)
    *lead, last = [int(step) if step.isdigit() else step.replace("~", ".") for step in path.split(".")]
    for number, step in enumerate(lead):
        if isinstance(place := value_at(broken, tuple(lead[:number])), dict):
            place.setdefault(step, {})
    place = value_at(broken, tuple(lead))
    if value is GONE:
        del place[last]
    elif isinstance(place, list) and last == len(place):
        place.append(value)
    else:
        place[last] = value
    return broken
