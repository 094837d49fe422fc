"""Generates mistakes in objects, misspelt keys and wrong values, to measure how many the check finds."""

import copy
import random
from collections.abc import Iterator

import yaml

from emoji_ldm.kubernetes.lint.k8s_enums import DURATIONS, PORTS
from emoji_ldm.kubernetes.lint.pods import value_at
from emoji_ldm.kubernetes.lint.quantities import quantity
from emoji_ldm.kubernetes.lint.rules.labels import OUR_LABELS
from emoji_ldm.kubernetes.lint.rules.values import allowed_values, duration_of, is_quantity

CONFIG = "emoji-ldm.yaml"
TEXTS = ("data", "annotations")  # free texts; those of annotations that we know have words
NAMES = ("serviceAccountName", "priorityClassName", "configMapName", "secretName", "claimName", "clusterQueue",
         "gatewayClassName", "policyName", "serviceName", "cohortName", "topologyName", "groupName")  # fmt: skip
REFERENCES = (
    "configMapRef",
    "secretRef",
    "secretKeyRef",
    "configMapKeyRef",
    "configMap",
    "volumeMounts",
    "roleRef",
    "nodeClassRef",
)


def keys(obj: dict) -> Iterator[tuple]:
    """Paths of all keys of an object; those of the project's own config lie below its text."""
    yield from _keys(obj)
    if text := (obj.get("data") or {}).get(CONFIG):
        yield from (("data", CONFIG, *path) for path in _keys(yaml.safe_load(text)))


def misspelt(obj: dict, path: tuple, chance: random.Random) -> dict:
    """A copy with one key misspelt, as fingers do: a letter lost, doubled, added, swapped, or in the other case."""
    key = path[-1]
    middle = len(key) // 2
    wrong = [key[:-1] or "x", key + "s", key[0] + key, key.swapcase(), key[:middle] + key[middle + 1 :] or "y"]
    other = chance.choice([one for one in wrong if one != key])
    return _changed(obj, path, lambda place: place.__setitem__(other, place.pop(key)))


def wrong_values(obj: dict) -> Iterator[tuple[str, tuple, list]]:
    """(class, path, values that are wrong there) for every plain value whose right form can be told."""
    for path, value in _leaves(obj):
        found = _class(path, value, obj)
        if found is not None:
            yield found[0], path, found[1]


def with_value(obj: dict, path: tuple, value: object) -> dict:
    """A copy with another value at a path."""
    return _changed(obj, path, lambda place: place.__setitem__(path[-1], value))


def _class(path: tuple, value: object, obj: dict) -> tuple[str, list] | None:
    plain = path[:-1] if isinstance(path[-1], int) else path
    if plain[:1] in (("data",), ("status",)):
        return None
    if path[-1] == "image" and isinstance(value, str) and "FILL-ME-IN" not in value:
        return "image", ["Emoji LDM", value.split("@")[0].rpartition(":")[0] + ":latest", value.replace("e", "ee", 1)]
    if isinstance(value, bool):
        return "boolean", ["yes", 1]
    if plain[-1] in PORTS or (plain[-1] in ("port", "targetPort") and isinstance(value, int)):
        return "port", [0, 70000, "http!"]
    if isinstance(value, int):
        return "number", ["many", 1.5]
    if is_quantity(plain) and quantity(value) is not None:
        return "quantity", ["32GB", "8 Gi", "eight", "-1"]
    if plain[-1] in DURATIONS and duration_of(value) is not None and "annotations" not in plain:
        return "duration", ["soon", "5 minutes", "30"]
    if (words := allowed_values(plain)) and value in words:
        return "word", [value.lower() if value.lower() not in words else value.upper(), value + "s", value[:-1]]
    if plain[-1] in NAMES or (plain[-1] == "name" and len(plain) > 2 and (set(plain[-3:]) & set(REFERENCES))):
        return "name", [value[:-1] or "x", value + "s", "Not_A_Name"]
    if plain == ("metadata", "name") or plain == ("metadata", "namespace"):
        return "name", ["Not_A_Name", "a" * 260]
    if len(plain) > 1 and plain[-2] in ("labels", "matchLabels", "nodeSelector") and "template" not in plain[-2:]:
        known = plain[-1] in OUR_LABELS
        return "label", ["not a label!", "x" * 64, *([value[:-1] or "x"] if known else [])]
    return None


def _keys(value: object, path: tuple = ()) -> Iterator[tuple]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*path, key)
            yield from _keys(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _keys(item, (*path, index))


def _leaves(value: object, path: tuple = ()) -> Iterator[tuple[tuple, object]]:
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(item, (*path, key))
    elif value is not None and path:
        yield path, value


def _changed(obj: dict, path: tuple, change) -> dict:
    broken = copy.deepcopy(obj)
    if path[:2] == ("data", CONFIG) and len(path) > 2:
        inner = yaml.safe_load(broken["data"][CONFIG])
        change(value_at(inner, path[2:-1]))
        broken["data"][CONFIG] = yaml.safe_dump(inner)
    else:
        change(value_at(broken, path[:-1]))
    return broken
