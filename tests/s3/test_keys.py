"""Bearer keys in a store: a service on any machine reads them, and survives a store that cannot be reached."""

import asyncio

import pytest

from emoji_ldm.serve import auth
from emoji_ldm.serve.answers import RequestError
from emoji_ldm.serve.auth import Keys
from emoji_ldm.serve.keys import read_keys
from ray_jobs.cli import main

pytestmark = pytest.mark.slow


def test_keys_in_a_store_are_made_read_again_and_revoked(s3_uri, monkeypatch, capsys):
    monkeypatch.setattr(auth, "REFRESH_S", 0.0)
    option = f"serve.keys={s3_uri}/keys.json"
    assert read_keys(f"{s3_uri}/keys.json") is None
    assert main(["keys", "add", "alice", "--class", "bulk", option]) == 0
    alice, keys = capsys.readouterr().out.strip(), Keys(f"{s3_uri}/keys.json")
    assert asyncio.run(keys.caller(f"Bearer {alice}")).bulk_only
    assert main(["keys", "add", "bob", option]) == 0
    bob = capsys.readouterr().out.strip()
    assert asyncio.run(keys.caller(f"Bearer {bob}")).name == "bob"
    assert main(["keys", "revoke", "alice", option]) == 0
    with pytest.raises(RequestError, match="not known"):
        asyncio.run(keys.caller(f"Bearer {alice}"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert asyncio.run(keys.caller(f"Bearer {bob}")).name == "bob"
