"""Secrets of an overlay: those that are missing are created, and no value is ever shown."""

import base64
import json

import pytest
import yaml

from emoji_ldm.serve.api_keys import hash_key

pytestmark = pytest.mark.usefixtures("unchecked")


def test_missing_secrets_are_created_once_and_never_printed(cluster, api):
    _, printed, said = cluster("up")
    values = [base64.b64decode(text).decode() for secret in api.of("Secret") for text in secret["data"].values()]
    assert len(set(values)) == 3 and min(map(len, values)) >= 20
    assert "emoji-ldm-store, emoji-ldm-token" in said
    assert not any(value in printed + said for value in values)
    assert not any(value in path for value in values for _, path in api.requests)
    before = {key: obj["metadata"]["generation"] for key, obj in api.objects.items()}, api.of("Secret")
    status, _, said = cluster("up")
    assert status == 0 and "Secrets made" not in said
    assert ({key: obj["metadata"]["generation"] for key, obj in api.objects.items()}, api.of("Secret")) == before


def test_the_service_gets_a_first_key_and_the_file_of_its_hash(cluster, api, manifests):
    listed = yaml.safe_load((manifests / "secrets.yaml").read_text())
    listed["serve-keys"] = {"keys": ["keys.json", "first"], "overlays": ["small"]}
    (manifests / "secrets.yaml").write_text(yaml.safe_dump(listed))
    status, printed, said = cluster("up")
    assert status == 0, said
    (secret,) = (obj for obj in api.of("Secret") if obj["metadata"]["name"] == "serve-keys")
    values = {name: base64.b64decode(text).decode() for name, text in secret["data"].items()}
    (entry,) = json.loads(values["keys.json"])["keys"]
    assert "models" in entry["scopes"], "who installs the service registers its models"
    assert (entry["name"], entry["sha256"]) == ("admin", hash_key(values["first"]))
    assert values["first"] not in values["keys.json"] + printed + said
