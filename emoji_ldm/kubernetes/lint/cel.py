"""The CEL rules of custom kinds (`x-kubernetes-validations`), evaluated as the API server does at creation.

Each rule is attached to a node of the schema and is evaluated with `self` bound to every value at that node. Rules that
read `oldSelf` compare with the object before an update; the API server skips them at creation, and so does this module.
`KUBERNETES_FUNCTIONS` holds the functions that Kubernetes adds to CEL and that the `cel` package lacks.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import cel

from emoji_ldm.kubernetes.lint.pods import FieldPath
from emoji_ldm.kubernetes.lint.schema import CustomKind, Schema, with_defaults

CEL_RULES_KEY = "x-kubernetes-validations"


def expression_problems(obj: dict[str, Any], kind: CustomKind) -> Iterator[tuple[FieldPath, str]]:
    """The CEL rules that an object breaks, each with the path of the value it applies to."""
    if _count(kind.schema):
        # The API server fills in defaults before it evaluates rules, so a rule may rely on a field that the manifest
        # omits.
        yield from _broken_rules(with_defaults(obj, kind.schema), kind.schema, ())


def holds(rule: str, value: Any) -> bool:
    """Whether a rule holds for a value; one that cannot be evaluated does not, as in the API server."""
    context = cel.Context(variables={"self": value}, functions=KUBERNETES_FUNCTIONS)
    try:
        return _compiled(rule).execute(context) is True
    except (KeyError, TypeError, ValueError, RuntimeError):
        return False


def _broken_rules(value: Any, schema: Schema, path: FieldPath) -> Iterator[tuple[FieldPath, str]]:
    for rule in schema.get(CEL_RULES_KEY, ()):
        if not is_update_rule(rule) and not holds(rule["rule"], value):
            yield path, str(rule.get("message") or f"breaks the rule {rule['rule']}")
    if isinstance(value, dict):
        known, other = schema.get("properties", {}), schema.get("additionalProperties")
        for name, item in value.items():
            part = known.get(name, other if isinstance(other, dict) else None)
            if part and _count(part):
                yield from _broken_rules(item, part, (*path, name))
    elif isinstance(value, list) and _count(items := schema.get("items", {})):
        for index, item in enumerate(value):
            yield from _broken_rules(item, items, (*path, index))


def is_update_rule(rule: dict[str, Any]) -> bool:
    """Whether only an update can break a rule."""
    # With `optionalOldSelf` a rule is evaluated at creation too, where oldSelf is an empty optional.
    return re.search(r"\boldSelf\b", rule["rule"]) is not None and not rule.get("optionalOldSelf")


# Most schema nodes hold no rule. Their counts are cached by identity; the tuple keeps the schema alive, so that its id
# is not reused.
_COUNTS: dict[int, tuple[Schema, int]] = {}


def _count(schema: Schema) -> int:
    """How many rules a schema holds; nodes without any are not descended into."""
    if id(schema) not in _COUNTS:
        _COUNTS[id(schema)] = (schema, sum(1 for _ in rules_of(schema)))
    return _COUNTS[id(schema)][1]


def rules_of(schema: Schema) -> Iterator[dict[str, Any]]:
    """Every CEL rule in a schema."""
    # Combinations such as anyOf are left out: Kubernetes allows rules only where a schema is structural.
    yield from schema.get(CEL_RULES_KEY, ())
    parts = [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]
    for part in parts:
        if isinstance(part, dict):
            yield from rules_of(part)


@functools.cache
def _compiled(rule: str) -> cel.Program:
    return cel.compile(rule)


def _find(text: str, pattern: str) -> str:
    found = re.search(pattern, text)
    return found[0] if found else ""


# https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-regex-library and cel-go's strings library
KUBERNETES_FUNCTIONS = {"find": _find, "split": lambda text, mark: text.split(mark)}
