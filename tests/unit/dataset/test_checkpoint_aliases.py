"""Names of checkpoints: they move, keep what they name, and a model is found by them."""

from __future__ import annotations

import pytest

from emoji_ldm.config import build
from emoji_ldm.dataset import checkpoint_aliases, checkpoints
from emoji_ldm.errors import ConfigError, ModelError
from emoji_ldm.generate.checkpoint_resolver import resolve_checkpoint, resolve_reference
from emoji_ldm.store import Store
from ray_jobs.cli.main import main


@pytest.fixture
def store(tmp_path):
    """Three checkpoints of the run `tiny`."""
    store = Store(str(tmp_path / "store"))
    for step in (4, 6, 8):
        store.write(b"{}", path_of(step), "pipeline", "model_index.json")
        checkpoints.publish_checkpoint(store, path_of(step), {"step": step})
    return store


def path_of(step):
    return f"checkpoints/tiny/unet/step-{step:08d}-{step:08d}"


def test_a_name_means_the_checkpoint_that_was_given_it_last(store, tmp_path):
    config = build({"run": "tiny", "store": store.uri}, where="test")
    checkpoint_aliases.set_alias(store, "live", path_of(4))
    checkpoint_aliases.set_alias(store, "live", path_of(6))
    folder, uri = resolve_checkpoint(config, store, tmp_path / "cache", "alias:live")
    assert (folder / "model_index.json").is_file()
    assert uri == resolve_reference(config, store, "alias:live").uri == f"{store.uri}/{path_of(6)}"
    assert resolve_reference(config, store, "").path == path_of(8)


def test_a_checkpoint_with_a_name_is_not_pruned(store):
    checkpoint_aliases.set_alias(store, "live", path_of(4))
    checkpoints.prune_checkpoints(store, "tiny", "unet", keep=1)
    assert [found.step for found in checkpoints.complete_checkpoints(store, "tiny", "unet")] == [4, 8]


def test_unknown_and_impossible_names_are_one_line(store):
    checkpoint_aliases.set_alias(store, "live", path_of(4))
    with pytest.raises(
        ModelError, match=r"'life' \(aliases: live\); give it to the newest with: emoji-ldm train --alias"
    ):
        checkpoint_aliases.resolve_alias(store, "life")
    with pytest.raises(ConfigError, match=r"name '\.\./x' is not allowed"):
        checkpoint_aliases.set_alias(store, "../x", path_of(4))


def test_the_command_names_the_newest_or_the_one_that_is_given(store, capfd):
    words = ["train", "run=tiny", f"store={store.uri}", "--alias", "live"]
    assert main(words) == 0 and checkpoint_aliases.resolve_alias(store, "live") == path_of(8)
    assert main([*words, "--checkpoint", path_of(6)]) == 0 and checkpoint_aliases.resolve_alias(
        store, "live"
    ) == path_of(6)
    assert "serve.checkpoint=alias:live" in capfd.readouterr().err
    assert main([*words, "--checkpoint", "nowhere"]) == 1
    assert main(["train", "--checkpoint", path_of(6)]) == 2
