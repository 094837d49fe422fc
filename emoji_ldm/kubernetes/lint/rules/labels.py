"""Rules of labels and annotations, which schemas accept with any key, so that a typo passes and selects nothing."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterator
from typing import Any

from emoji_ldm.kubernetes.lint.k8s_enums import KEYS, LABEL_MAPS, LABEL_VALUE, PLAIN_KEYS, qualified_name
from emoji_ldm.kubernetes.lint.pods import FieldPath
from emoji_ldm.kubernetes.lint.rules.rule import OBJECT, RuleTarget, Violations, rule
from emoji_ldm.kubernetes.lint.rules.values import inside, nodes

ALIKE = 0.76  # share of equal letters from which a key is a typo of another
OUR_PREFIXES = ("emoji-ldm", "ray.io", "kueue.x-k8s.io")  # whose keys are all known
FREE_TEXT = ("data", "stringData", "binaryData", "annotations", "rayStartParams")  # maps that other rules check


@rule(OBJECT)
def labels_are_labels(target: RuleTarget) -> Violations:
    """Kubernetes API validation (apimachinery/pkg/util/validation, apis/core/validation)."""
    for path, labels in _maps(target.object):
        for key, value in labels.items():
            if not qualified_name(str(key)) or not isinstance(value, str) or not LABEL_VALUE.fullmatch(value):
                yield (*path, key), f"{key}={value} is not a valid label (at most 63 of A-Z, a-z, 0-9, -, _, .)"


@rule(OBJECT)
def keys_of_annotations_are_keys(target: RuleTarget) -> Violations:
    """Kubernetes API validation (apimachinery/pkg/util/validation, apis/core/validation)."""
    # The maps inside of a PrometheusRule are called annotations as well, but they hold texts for people. Only those
    # below `metadata` are annotations of Kubernetes.
    for path, value in nodes(target.object):
        if path and path[-1] == "annotations" and isinstance(value, dict) and "metadata" in path:
            for key in value:
                if not qualified_name(key):
                    yield (*path, key), f"{key!r} is not a valid annotation key"


@rule(OBJECT)
def values_of_known_annotations_exist(target: RuleTarget) -> Violations:
    """Kueue, Karpenter and the cluster autoscaler: these annotations accept fixed values only."""
    # Operators compare these strings exactly, and take a value that they do not know, such as "True", for an absent
    # one.
    for path, value in nodes(target.object):
        if path and path[-1] == "annotations" and isinstance(value, dict):
            for key, words in ANNOTATIONS.items():
                if key in value and value[key] not in words:
                    yield (*path, key), f"{value[key]!r} is not one of {', '.join(words)}"


@rule(OBJECT)
def keys_of_labels_and_annotations_are_spelt_right(target: RuleTarget) -> Violations:
    """Project convention: labels and annotations are free maps, so a typo passes every schema.

    A site may use any keys of its own. Those that resemble a key of this project or of its operators are typos.
    """
    for path, value in nodes(target.object):
        if not path or path[-1] not in (*LABEL_MAPS, "annotations") or not isinstance(value, dict):
            continue
        for key in value:
            if not isinstance(value[key], dict | list) and (meant := _meant(key)):
                yield (*path, key), f"nothing reads a label or annotation called {key!r}; did you mean {meant!r}?"


@rule(OBJECT)
def values_of_our_labels_exist(target: RuleTarget) -> Violations:
    """Project convention: policies, budgets and monitors select by these labels; a typo selects nothing."""
    # A label occurs in two shapes: as a key with one value in a map, and as the key of an expression with a list of
    # values.
    for path, value in nodes(target.object):
        if path and path[-1] in OUR_LABELS and isinstance(value, str) and value not in OUR_LABELS[str(path[-1])]:
            yield path, f"{value!r} is not one of {', '.join(OUR_LABELS[str(path[-1])])}"
        if isinstance(value, dict) and value.get("key") in OUR_LABELS and isinstance(value.get("values"), list):
            for index, one in enumerate(value["values"]):
                if one not in OUR_LABELS[value["key"]]:
                    yield (*path, "values", index), f"{one!r} is not one of {', '.join(OUR_LABELS[value['key']])}"


STAGES = "crawl caption autoencoder latents train generate report pipeline refresh serve cluster"


# The values that selectors of this project look for: NetworkPolicies, disruption budgets, monitors and node selectors.
OUR_LABELS = {
    "emoji-ldm/stage": tuple(STAGES.split()),
    "emoji-ldm/role": ("head", "worker", "submitter"),
    "emoji-ldm/internet": ("true",),
    "emoji-ldm/submit": ("true",),
    "app.kubernetes.io/part-of": ("emoji-ldm",),
}


ANNOTATIONS = {
    "kueue.x-k8s.io/elastic-job": ("true", "false"),
    "karpenter.sh/do-not-disrupt": ("true", "false"),
    "cluster-autoscaler.kubernetes.io/safe-to-evict": ("true", "false"),
}


@functools.cache
def _meant(key: str) -> str:
    """The known key that a key resembles; "" if it is known itself, or is a key of somebody else's."""
    if key in KEYS or key in PLAIN_KEYS:
        return ""
    prefix, _, name = key.rpartition("/")
    for known in sorted(KEYS | PLAIN_KEYS):
        own_prefix, _, own_name = known.rpartition("/")
        # Names below one prefix are compared by themselves: a long prefix would make any two keys alike.
        names = _likeness(name, own_name)
        if (prefix == own_prefix and names >= ALIKE) or (names == 1 and _likeness(prefix, own_prefix) >= ALIKE):
            return known
    return next(iter(sorted(known for known in KEYS if prefix in OUR_PREFIXES and known.startswith(f"{prefix}/"))), "")


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def _maps(obj: Any) -> Iterator[tuple[FieldPath, dict[str, Any]]]:
    """Every map of labels, with its path."""
    for path, value in nodes(obj):
        if not isinstance(value, dict) or not path or path[-1] not in LABEL_MAPS:
            continue
        # A selector with nested values is a label selector; that of a Service is a plain map of labels.
        if path[-1] == "selector" and any(isinstance(item, dict | list) for item in value.values()):
            continue
        if "headGroupSpec" in path or "workerGroupSpecs" in path or not inside(path, FREE_TEXT):
            yield path, value
