"""Secrets of an overlay: which ones it needs, and random values where the overlay contains both sides.

The in-cluster store and Redis are installed with the same Secret that their clients read, so any random value will do.
With S3 and ElastiCache the values exist elsewhere, and the user is told how to create the Secrets from there.
"""

from __future__ import annotations

import secrets

import yaml

from emoji_ldm.errors import ClusterError
from emoji_ldm.kubernetes.kubectl import Kubectl
from emoji_ldm.kubernetes.lint.rendering import KubeObject
from emoji_ldm.kubernetes.overlay import Overlay

# MinIO accepts 3 to 20 characters for it, and 8 to 40 for the secret key.
ACCESS_KEY = "AWS_ACCESS_KEY_ID"
PART_OF = "emoji-ldm"  # the value of the label app.kubernetes.io/part-of
# The keys of the HTTP service, see k8s/secrets.yaml.
SERVE_KEYS, ADMINISTRATOR = "serve-keys", "admin"


def required_secrets(overlay: Overlay) -> dict[str, list[str]]:
    """The keys of each Secret that has to be created, by name; an ExternalSecret creates its own."""
    declared = yaml.safe_load((overlay.folder / "secrets.yaml").read_text(encoding="utf-8"))
    fetched = {((obj["spec"].get("target") or {}).get("name") or obj["metadata"]["name"])
               for obj in overlay.of_kinds("ExternalSecret")}  # fmt: skip
    return {name: entry["keys"] for name, entry in declared.items()
            if overlay.name in entry["overlays"] and name not in fetched}  # fmt: skip


def ensure(kubectl: Kubectl, overlay: Overlay) -> list[str]:
    """Create the Secrets that are missing and return their names; existing ones are not changed.

    Raises:
        ClusterError: A Secret lacks a key, or is missing in an overlay whose store and Redis are outside of it.
    """
    keys = required_secrets(overlay)
    existing = {obj["metadata"]["name"]: set(obj.get("data") or {}) for obj in kubectl.list_objects("secrets")}
    # An existing Secret is never changed: its values may be in use by a store that holds data.
    for name, present in existing.items():
        if lacking := [key for key in keys.get(name, ()) if key not in present]:
            raise ClusterError(f"Secret {name} in namespace {kubectl.namespace} lacks the key {', '.join(lacking)}; "
                               f"add it, or delete the Secret and run this again")  # fmt: skip
    missing = [name for name in keys if name not in existing]
    # An overlay without a StatefulSet has its store and Redis elsewhere, where a random password would be a wrong one.
    if missing and not overlay.of_kinds("StatefulSet"):
        commands = "; ".join(create_command(kubectl.namespace, name, keys[name]) for name in missing)
        raise ClusterError(f"Secret {', '.join(missing)} is missing, and its value exists outside of this overlay; "
                           f"create it from there: {commands}")  # fmt: skip
    if missing:
        # The objects go through standard input, so that no value appears in a list of processes. `create` fails if
        # somebody else was faster, where `apply` would overwrite what clients already use.
        objects = [_random(kubectl.namespace, name, keys[name]) for name in missing]
        kubectl.run("create", "--filename", "-", input_objects=objects)
    return missing


def _random(namespace: str, name: str, keys: list[str]) -> KubeObject:
    labels = {"app.kubernetes.io/part-of": PART_OF}
    values = {key: secrets.token_hex(10 if key == ACCESS_KEY else 20) for key in keys}
    if name == SERVE_KEYS:
        values = _first_key()
    return {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "stringData": values,
            "metadata": {"name": name, "namespace": namespace, "labels": labels}}  # fmt: skip


def _first_key() -> dict[str, str]:
    """A key of the service for its administrator, and the file with its hash; random bytes would be neither."""
    from emoji_ldm.serve.api_keys import KEY_FILE, SCOPES, new_key

    # All scopes: who installs the service also registers its models.
    key, entry = new_key(ADMINISTRATOR, "interactive", 0, None, SCOPES)
    return {"first": key, "keys.json": KEY_FILE.dump_json({"keys": (entry,)}, indent=1).decode()}


def first_key_command(namespace: str) -> str:
    """The command that prints the key of the service's administrator."""
    return f"kubectl -n {namespace} get secret {SERVE_KEYS} -o jsonpath='{{.data.first}}' | base64 -d"


def create_command(namespace: str, name: str, keys: list[str]) -> str:
    """The command that creates a Secret from files with its values."""
    files = " ".join(f"--from-file={key}=FILE" for key in keys)
    return f"kubectl -n {namespace} create secret generic {name} {files}"
