"""Strict validation of one object: unknown fields and wrong types are errors, as in `kubectl apply --validate=strict`.

Built-in kinds are validated against Kubernetes' own schemas (package kubernetes_validate), custom kinds against the
schemas in `k8s/schemas`. A custom resource definition by itself is lenient: the API server silently drops unknown
fields ("pruning"), so that a typo takes effect as a missing setting. `strict` turns such a schema into one that refuses
them.
"""

from __future__ import annotations

import copy
import difflib
import functools
import importlib.resources
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import referencing

from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.lint.pods import FieldPath, templates, value_at
from emoji_ldm.kubernetes.lint.rendering import KubeObject

# Kubernetes' schemas mark few fields as required, so an object of these kinds without a spec would pass them.
KINDS_WITH_SPEC_TEXT = """
Service StatefulSet Deployment DaemonSet Job CronJob Pod PodDisruptionBudget NetworkPolicy ValidatingAdmissionPolicy
ValidatingAdmissionPolicyBinding RayCluster RayJob RayService RayCronJob ClusterQueue LocalQueue Topology PodMonitor
ServiceMonitor PrometheusRule NodePool EC2NodeClass PersistentVolumeClaim
"""
KINDS_WITH_SPEC = frozenset(KINDS_WITH_SPEC_TEXT.split())
CUSTOM_GROUPS = ("kueue.x-k8s.io", "gateway.networking.k8s.io")  # custom, though named like built-in groups
PRESERVE_UNKNOWN_FIELDS = "x-kubernetes-preserve-unknown-fields"
Schema = dict[str, Any]


@dataclass(frozen=True)
class CustomKind:
    """One custom kind: its strict schema, and whether its objects belong to a namespace."""

    validator: jsonschema.Draft202012Validator
    schema: Schema  # with defaults and CEL rules
    namespaced: bool


def schema_problems(obj: KubeObject, schemas: Path, kubernetes: str) -> Iterator[tuple[FieldPath, str]]:
    """What is wrong with the form of an object, each with the path of the field.

    Args:
        obj: Any object.
        schemas: The folder with the schemas of custom kinds.
        kubernetes: The version whose schemas apply to built-in kinds, such as "1.35".
    """
    if not isinstance(obj.get("apiVersion"), str) or not isinstance(obj.get("kind"), str):
        yield (), "an object needs apiVersion and kind"
        return
    yield from _skeleton(obj)
    if is_built_in(obj):
        yield from _built_in(obj, kubernetes)
        return
    found = custom_kind(obj["apiVersion"], obj["kind"], schemas)
    if found is None:
        # A site may use operators that this project does not know; a name like one that it knows is a typo.
        group, known = obj["apiVersion"].rpartition("/")[0], sorted({path.name.rpartition("_")[0]
                                                                     for path in schemas.glob("*_*.json")})  # fmt: skip
        if difflib.get_close_matches(group, known, n=1, cutoff=0.8):
            yield ("kind",), f"no kind {obj['kind']} in {obj['apiVersion']}: {schemas} has no schema for it"
        return
    # A field with a default may be required, so defaults are filled in before the object is validated.
    full = with_defaults(obj, found.schema)
    yield from _errors(found.validator, full)
    # Schemas of custom kinds leave the metadata to the API server, so they are validated as those of a ConfigMap.
    stand_in = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": obj.get("metadata") or {}}
    yield from _built_in(stand_in, kubernetes)


def _skeleton(obj: KubeObject) -> Iterator[tuple[FieldPath, str]]:
    """What schemas leave optional and objects need: a name, a spec if the kind has one, containers in every Pod."""
    metadata = obj.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        yield (), "an object needs metadata.name"
    if obj["kind"] in KINDS_WITH_SPEC and not isinstance(obj.get("spec"), dict):
        yield (), f"a {obj['kind']} needs a spec"
    for path, template in templates(obj):
        spec = template.get("spec") if isinstance(template, dict) else None
        containers = spec.get("containers") if isinstance(spec, dict) else None
        if not isinstance(containers, list) or not containers:
            yield path, "a Pod needs spec.containers"
    claims = value_at(obj, ("spec", "volumeClaimTemplates"))
    for index, claim in enumerate(claims if isinstance(claims, list) else []):
        if not value_at(claim, ("metadata", "name")) or not value_at(claim, ("spec",)):
            yield ("spec", "volumeClaimTemplates", index), "a claim needs metadata.name and spec"


def is_built_in(obj: KubeObject) -> bool:
    """Whether the kind is built into Kubernetes."""
    group, slash, _ = str(obj["apiVersion"]).rpartition("/")
    # Groups of built-in kinds have no dot (apps, batch) or end in .k8s.io. Kueue and the Gateway API use that ending
    # too, as projects of Kubernetes, but their kinds are custom.
    return not slash or "." not in group or (group.endswith(".k8s.io") and not group.startswith(CUSTOM_GROUPS))


def custom_kind(api_version: str, kind: str, schemas: Path) -> CustomKind | None:
    """The custom kind; None if the folder has no schema for it."""
    path = schemas / f"{api_version.rpartition('/')[0]}_{kind}.json"
    if not path.is_file():
        return None
    found, version = _custom(path, path.stat().st_mtime_ns)
    return found if api_version.endswith(f"/{version}") else None


@functools.lru_cache(maxsize=64)
def _custom(path: Path, _mtime_ns: int) -> tuple[CustomKind, str]:
    read = json.loads(path.read_text(encoding="utf-8"))
    schema = strict(read["schema"])
    schema["required"] = sorted({"apiVersion", "kind", "metadata", *schema.get("required", [])})
    kind = CustomKind(jsonschema.Draft202012Validator(schema), schema, read["scope"] == "Namespaced")
    return kind, read["version"]


def _built_in(obj: KubeObject, kubernetes: str) -> Iterator[tuple[FieldPath, str]]:
    validator = _built_in_validator(obj["apiVersion"], obj["kind"], kubernetes)
    if validator is None:
        yield ("kind",), f"Kubernetes {kubernetes} has no kind {obj['kind']} in {obj['apiVersion']}"
    else:
        yield from _errors(validator, obj)


@functools.lru_cache(maxsize=128)
def _built_in_validator(api_version: str, kind: str, kubernetes: str) -> jsonschema.Draft202012Validator | None:
    group, _, version = api_version.rpartition("/")
    words = [kind.lower(), *([group.partition(".")[0]] if group else []), version]
    path = _built_in_folder(kubernetes) / f"{'-'.join(words)}.json"
    if not path.is_file():
        return None
    schema = json.loads(path.read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(schema, registry=_definitions(kubernetes))


def _built_in_folder(kubernetes: str) -> Path:
    root = Path(str(importlib.resources.files("kubernetes_validate"))) / "kubernetes-json-schema"
    folder = root / f"v{kubernetes}.0-local-strict"
    if not folder.is_dir():
        known = sorted(path.name.split(".0-")[0] for path in root.glob("v*-local-strict"))
        raise ConfigError(
            f"versions.yaml names Kubernetes {kubernetes}, but there are only schemas of {', '.join(known)}"
        )
    return folder


@functools.lru_cache(maxsize=2)
def _definitions(kubernetes: str) -> referencing.Registry[Any]:
    read = json.loads((_built_in_folder(kubernetes) / "_definitions.json").read_text(encoding="utf-8"))
    return referencing.Resource.from_contents(read) @ referencing.Registry()


def _errors(validator: jsonschema.Draft202012Validator, obj: KubeObject) -> Iterator[tuple[FieldPath, str]]:
    for error in validator.iter_errors(obj):
        path = tuple(error.absolute_path)
        # One error of the validator lists all unknown fields; each becomes a finding on the line of its own.
        if error.validator == "additionalProperties":
            for name in sorted(set(error.instance) - set(error.schema.get("properties", {}))):
                yield (*path, name), f"unknown field {name!r}"
        else:
            yield path, error.message[:200]


def strict(schema: Schema) -> Schema:
    """The schema of a custom kind as a JSON schema that refuses what the API server would silently drop."""
    # Formats such as int64 are Go types, which say nothing about YAML, and descriptions only cost time.
    result = {key: _strict_part(key, value) for key, value in schema.items() if key not in ("description", "format")}
    # The extension means "an integer or a string". Kubernetes repeats that as an anyOf, which yields worse messages.
    if result.pop("x-kubernetes-int-or-string", False):
        result["type"] = ["integer", "string"]
        result.pop("anyOf", None)
    if "properties" in result and not result.get(PRESERVE_UNKNOWN_FIELDS):
        result.setdefault("additionalProperties", False)
    return result


def _strict_part(key: str, value: Any) -> Any:
    if key == "properties":
        return {name: strict(part) for name, part in value.items()}
    if key in ("items", "additionalProperties") and isinstance(value, dict):
        return strict(value)
    return value


def with_defaults(value: Any, schema: Schema) -> Any:
    """A copy with the schema's defaults filled in, as the API server does before it validates an object."""
    if isinstance(value, dict):
        known, other = schema.get("properties", {}), schema.get("additionalProperties")
        filled = {name: copy.deepcopy(part["default"]) for name, part in known.items() if "default" in part}
        # An explicit null counts as absent, so the default applies.
        filled |= {name: item for name, item in value.items() if item is not None}
        parts = {name: known.get(name, other if isinstance(other, dict) else {}) for name in filled}
        return {name: with_defaults(item, parts[name]) for name, item in filled.items()}
    if isinstance(value, list):
        return [with_defaults(item, schema.get("items", {})) for item in value]
    return value
