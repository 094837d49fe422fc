"""Strict checks of one object: unknown fields and wrong types are errors, as in `kubectl apply --validate=strict`."""

import copy
import functools
import json
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

CRDS = Path(__file__).parent / "crds"
VERSIONS = yaml.safe_load((Path(__file__).parents[2] / "k8s" / "versions.yaml").read_text())
FREE = "x-kubernetes-preserve-unknown-fields"
METADATA_OF = "ConfigMap"  # any built-in kind: the CRDs leave metadata to the API server


def problems(thing: dict, *, partial: bool = False) -> list[str]:
    """What is wrong with an object; `partial` forgives missing fields, for files that kustomize completes."""
    if str(thing.get("apiVersion", "")).startswith("ray.io/"):
        return _custom(thing, partial)
    return [] if partial else _built_in(thing)


def _custom(thing: dict, partial: bool) -> list[str]:
    validator = _validators().get((thing["apiVersion"], thing.get("kind")))
    if validator is None:
        return [f"no kind {thing.get('kind')!r} in {thing['apiVersion']}"]
    full = with_defaults(thing, validator.schema)
    errors = [error for error in validator.iter_errors(full) if not (partial and error.validator == "required")]
    stand_in = {"apiVersion": "v1", "kind": METADATA_OF, "metadata": thing.get("metadata", {})}
    return [f"{error.json_path}: {error.message[:200]}" for error in errors] + _built_in(stand_in)


def _built_in(thing: dict) -> list[str]:
    try:
        _cached().validate(thing, str(VERSIONS["kubernetes"]), strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return [str(error).splitlines()[0][:300]]
    except KeyError as error:
        return [f"missing {error}"]
    return []


@functools.cache
def _cached():
    """kubernetes_validate with its schema files kept in memory: it reads 5 MB anew for each object."""
    from kubernetes_validate import utils

    utils.schema_contents = functools.cache(utils.schema_contents)
    return utils


@functools.cache
def _validators() -> dict[tuple[str, str], jsonschema.Draft202012Validator]:
    validators = {}
    for path in sorted(CRDS.glob("*.json")):
        spec = json.loads(path.read_text())["spec"]
        for version in spec["versions"]:
            schema = strict(version["schema"]["openAPIV3Schema"])
            schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
            key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
            validators[key] = jsonschema.Draft202012Validator(schema)
    return validators


def strict(schema: dict) -> dict:
    """The schema of a CRD as JSON schema that refuses what the API server would silently drop."""
    made = {key: _strict_part(key, value) for key, value in schema.items() if key not in ("description", "format")}
    if made.pop("x-kubernetes-int-or-string", False):
        made["type"] = ["integer", "string"]
        made.pop("anyOf", None)
    if "properties" in made and not made.get(FREE):
        made.setdefault("additionalProperties", False)
    return made


def _strict_part(key: str, value):
    if key == "properties":
        return {name: strict(part) for name, part in value.items()}
    if key in ("items", "additionalProperties") and isinstance(value, dict):
        return strict(value)
    return value


def with_defaults(value, schema: dict):
    """A copy with the schema's defaults filled in, as the API server does before it checks."""
    if isinstance(value, dict):
        known, other = schema.get("properties", {}), schema.get("additionalProperties")
        filled = {name: copy.deepcopy(part["default"]) for name, part in known.items() if "default" in part}
        filled |= {name: item for name, item in value.items() if item is not None}
        parts = {name: known.get(name, other if isinstance(other, dict) else {}) for name in filled}
        return {name: with_defaults(item, parts[name]) for name, item in filled.items()}
    if isinstance(value, list):
        return [with_defaults(item, schema.get("items", {})) for item in value]
    return value


def free_maps(value, schema: dict, path: tuple = ()):
    """Paths of the maps whose keys a schema leaves open (labels, resources, rayStartParams): no check can know them."""
    if isinstance(value, dict):
        known, other = schema.get("properties", {}), schema.get("additionalProperties")
        if schema.get(FREE) or isinstance(other, dict) or not known:
            yield path
        for name, item in value.items():
            yield from free_maps(item, known.get(name, other if isinstance(other, dict) else {}), (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from free_maps(item, schema.get("items", {}), (*path, index))


def custom_schema(thing: dict) -> dict | None:
    """The strict schema of a custom object; None for built-in kinds."""
    validator = _validators().get((thing["apiVersion"], thing["kind"]))
    return validator.schema if validator else None
