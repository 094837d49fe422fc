"""Names of checkpoints: they move, keep what they name, and a model is found by them."""

from __future__ import annotations

import pytest

from emoji_ldm.config import build
from emoji_ldm.dataset import checkpoints, labels
from emoji_ldm.errors import ConfigError, ModelError
from emoji_ldm.generate.source import meant, resolve_checkpoint
from emoji_ldm.store import Store
from ray_jobs import cli


@pytest.fixture
def store(tmp_path):
    """Three checkpoints of the run `tiny`."""
    store = Store(str(tmp_path / "store"))
    for step in (4, 6, 8):
        store.write(b"{}", path_of(step), "pipeline", "model_index.json")
        checkpoints.publish(store, path_of(step), {"step": step})
    return store


def path_of(step):
    return f"checkpoints/tiny/unet/step-{step:08d}-{step:08d}"


def test_a_name_means_the_checkpoint_that_was_given_it_last(store, tmp_path):
    config = build({"run": "tiny", "store": store.uri}, where="test")
    labels.put(store, "live", path_of(4))
    labels.put(store, "live", path_of(6))
    folder, uri = resolve_checkpoint(config, store, tmp_path / "cache", "tag:live")
    assert (folder / "model_index.json").is_file()
    assert uri == meant(config, store, "tag:live").uri == f"{store.uri}/{path_of(6)}"
    assert meant(config, store, "").path == path_of(8)


def test_a_checkpoint_with_a_name_is_not_pruned(store):
    labels.put(store, "live", path_of(4))
    checkpoints.prune(store, "tiny", "unet", keep=1)
    assert [found.step for found in checkpoints.listing(store, "tiny", "unet")] == [4, 8]


def test_unknown_and_impossible_names_are_one_line(store):
    labels.put(store, "live", path_of(4))
    with pytest.raises(ModelError, match=r"'life' \(tags: live\); give it to the newest with: emoji-ldm train --tag"):
        labels.get(store, "life")
    with pytest.raises(ConfigError, match=r"name '\.\./x' is refused"):
        labels.put(store, "../x", path_of(4))


def test_the_command_names_the_newest_or_the_one_that_is_given(store, capfd):
    words = ["train", "run=tiny", f"store={store.uri}", "--tag", "live"]
    assert cli.main(words) == 0 and labels.get(store, "live") == path_of(8)
    assert cli.main([*words, "--checkpoint", path_of(6)]) == 0 and labels.get(store, "live") == path_of(6)
    assert "serve.checkpoint=tag:live" in capfd.readouterr().err
    assert cli.main([*words, "--checkpoint", "nowhere"]) == 1
    assert cli.main(["train", "--checkpoint", path_of(6)]) == 2
