"""What the API server does with the fields of objects: who set which, how changes are merged, what selectors choose."""

import copy


def leaves(obj, path=()):
    """Path -> value of all that an applied object sets; list entries with a name are told apart by it."""
    if path == () and isinstance(obj, dict):
        obj = {name: value for name, value in obj.items() if name not in ("apiVersion", "kind", "status")}
        meta = obj.get("metadata", {})
        obj["metadata"] = {name: value for name, value in meta.items() if name in ("labels", "annotations")}
    if isinstance(obj, dict) and obj:
        return {where: value for name, child in obj.items() for where, value in leaves(child, (*path, name)).items()}
    if isinstance(obj, list) and obj and all(isinstance(entry, dict) and "name" in entry for entry in obj):
        return {where: value for entry in obj
                for where, value in leaves(entry, (*path, f'[name="{entry["name"]}"]')).items()}  # fmt: skip
    return {path: obj}


def field_set(paths):
    """As `managedFields` writes a set of fields: nested, each key with `f:` before it."""
    fields = {}
    for path in paths:
        place = fields
        for part in path:
            place = place.setdefault(part if part.startswith("[") else f"f:{part}", {})
    return fields


def dotted(path):
    return "".join(part if part.startswith("[") else f".{part}" for part in path)


def merged(old, new):
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{name: merged(old.get(name), value) for name, value in new.items()}}
    named = [isinstance(side, list) and all(isinstance(e, dict) and "name" in e for e in side) for side in (old, new)]
    if all(named) and old and new:
        before = {entry["name"]: entry for entry in old}
        fresh = {entry["name"]: merged(before.get(entry["name"]), entry) for entry in new}
        return [*fresh.values(), *(entry for name, entry in before.items() if name not in fresh)]
    return copy.deepcopy(new)


def without(obj, paths):
    obj = copy.deepcopy(obj)
    for path in paths:
        place = obj
        for part in path[:-1]:
            if part.startswith("["):
                place = next((entry for entry in place if f'[name="{entry.get("name")}"]' == part), {})
            else:
                place = place.get(part, {}) if isinstance(place, dict) else {}
        if isinstance(place, dict):
            place.pop(path[-1], None)
    return obj


def chosen(obj, query):
    labels = obj["metadata"].get("labels") or {}
    for term in filter(None, query.get("labelSelector", "").split(",")):
        name, sign, value = term.partition("!=") if "!=" in term else term.partition("=")
        if (labels.get(name) == value.lstrip("=")) == (sign == "!="):
            return False
    for term in filter(None, query.get("fieldSelector", "").split(",")):
        name, _, value = term.partition("=")
        place = obj
        for part in name.split("."):
            place = place.get(part, {})
        if place != value:
            return False
    return True
