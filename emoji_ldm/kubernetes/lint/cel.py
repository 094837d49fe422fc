"""The CEL rules of custom kinds (`x-kubernetes-validations`), evaluated as the API server does when an object is made.

Rules that look at `oldSelf` compare with the object before an update: the API server skips them at creation, so
they are listed (`skipped`) and not evaluated. Functions that Kubernetes adds to CEL and the package lacks are `EXTRA`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import cel

from emoji_ldm.kubernetes.lint.pods import FieldPath as Steps
from emoji_ldm.kubernetes.lint.schema import CustomKind, Schema, with_defaults

CEL_RULES_KEY = "x-kubernetes-validations"


def expression_problems(obj: dict[str, Any], kind: CustomKind) -> Iterator[tuple[Steps, str]]:
    """The CEL rules that an object breaks, each with the path of the value it speaks about."""
    if _count(kind.schema):
        yield from _walk(with_defaults(obj, kind.schema), kind.schema, ())


def skipped(schema: Schema) -> list[str]:
    """The rules of a schema that only an update can break."""
    return sorted({rule["rule"] for rule in _rules(schema) if _of_update(rule)})


def evaluated(schema: Schema) -> list[str]:
    """The rules of a schema that are evaluated."""
    return sorted({rule["rule"] for rule in _rules(schema) if not _of_update(rule)})


def holds(rule: str, value: Any) -> bool:
    """Whether a rule is true of a value; a rule that cannot be evaluated is not (as in the API server)."""
    context = cel.Context(variables={"self": value}, functions=KUBERNETES_FUNCTIONS)
    try:
        return _compiled(rule).execute(context) is True
    except (KeyError, TypeError, ValueError, RuntimeError):
        return False


def _walk(value: Any, schema: Schema, path: Steps) -> Iterator[tuple[Steps, str]]:
    for rule in schema.get(CEL_RULES_KEY, ()):
        if not _of_update(rule) and not holds(rule["rule"], value):
            yield path, str(rule.get("message") or f"breaks the rule {rule['rule']}")
    if isinstance(value, dict):
        known, other = schema.get("properties", {}), schema.get("additionalProperties")
        for name, item in value.items():
            part = known.get(name, other if isinstance(other, dict) else None)
            if part and _count(part):
                yield from _walk(item, part, (*path, name))
    elif isinstance(value, list) and _count(items := schema.get("items", {})):
        for index, item in enumerate(value):
            yield from _walk(item, items, (*path, index))


def _of_update(rule: dict[str, Any]) -> bool:
    return re.search(r"\boldSelf\b", rule["rule"]) is not None and not rule.get("optionalOldSelf")


_COUNTS: dict[int, tuple[Schema, int]] = {}  # by identity: the schemas are kept for good, and do not change


def _count(schema: Schema) -> int:
    """How many rules a schema holds: parts without any are not walked."""
    if id(schema) not in _COUNTS:
        _COUNTS[id(schema)] = (schema, sum(1 for _ in _rules(schema)))
    return _COUNTS[id(schema)][1]


def _rules(schema: Schema) -> Iterator[dict[str, Any]]:
    yield from schema.get(CEL_RULES_KEY, ())
    parts = [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]
    for part in parts:
        if isinstance(part, dict):
            yield from _rules(part)


@functools.cache
def _compiled(rule: str) -> cel.Program:
    return cel.compile(rule)


def _find(text: str, pattern: str) -> str:
    found = re.search(pattern, text)
    return found[0] if found else ""


# https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-regex-library and cel-go's strings library
KUBERNETES_FUNCTIONS = {"find": _find, "split": lambda text, mark: text.split(mark)}
