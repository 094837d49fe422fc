"""Models that join a running service: what can be registered, and what requests may name then."""

from dataclasses import replace

import pytest

from emoji_ldm.config import build
from emoji_ldm.dataset import checkpoint_aliases, checkpoints
from emoji_ldm.errors import ConfigError, ModelError, StoreError
from emoji_ldm.generate.checkpoint_resolver import LORA_FILE
from emoji_ldm.serve import model_catalog
from emoji_ldm.serve.backend import RequestLimits
from emoji_ldm.serve.model_catalog import ModelCatalog, with_registered
from emoji_ldm.store import Store

SERVED = {"tiny": RequestLimits("tiny", "0a", 32, 32, 4, 64, 10, 100, ("ddim",), ("blobs",))}


@pytest.fixture
def catalog(tmp_path, tiny_pipeline):
    """Of a store with a checkpoint (`path`), an alias of it, and an adapter."""
    settings = {"loras": {"blobs": "b"}, "max_steps": 7}
    config = build({"run": "tiny", "store": str(tmp_path / "store"), "serve": settings}, where="test")
    store = Store(config.store)
    path = f"checkpoints/tiny/unet/{checkpoints.folder_name(1)}"
    store.upload(tiny_pipeline, path, "pipeline")
    checkpoints.publish_checkpoint(store, path, {"step": 1})
    checkpoint_aliases.set_alias(store, "best", path)
    store.write(b"weights", "adapters", "outline", LORA_FILE)
    catalog = ModelCatalog(config)
    catalog.path = path
    return catalog


@pytest.mark.parametrize("source", ["alias:best", "{path}", "{uri}/{path}"])
def test_a_checkpoint_of_the_store_becomes_a_model(catalog, source):
    source = source.format(path=catalog.path, uri=catalog.store.uri)
    entry = catalog.register("pixel", "checkpoint", source, pinned=True)
    assert catalog.read() == {"pixel": entry} and entry.pinned and entry.uri.startswith(catalog.store.uri)
    known = with_registered(SERVED, catalog.read())
    assert [*known] == ["tiny", "pixel"] and known["tiny"] == SERVED["tiny"]
    assert (known["pixel"].model, known["pixel"].width_px, known["pixel"].max_steps) == ("pixel", 32, 7)
    assert known["pixel"].loras == ("blobs",)


def test_an_adapter_can_be_mixed_into_every_model(catalog):
    catalog.register("outline", "adapter", "adapters/outline")
    known = with_registered(SERVED, catalog.read())
    assert known == {"tiny": replace(SERVED["tiny"], loras=("blobs", "outline"))}


def test_a_model_leaves_and_its_files_stay(catalog):
    catalog.register("outline", "adapter", "adapters/outline")
    assert catalog.remove("outline") and not catalog.remove("outline")
    assert catalog.read() == {} and catalog.store.exists("adapters", "outline", LORA_FILE)


@pytest.mark.parametrize("name", ["tiny", "blobs", "A", "a+b", "a:1", "", "x" * 64, "../x"])
def test_names_that_would_mean_two_things_are_refused(catalog, name):
    with pytest.raises(ConfigError, match="is refused"):
        catalog.register(name, "adapter", "adapters/outline")


@pytest.mark.parametrize(
    "source",
    ["nowhere", "/etc", "../store", "s3://other/x", "runwayml/stable-diffusion", "{local}",
     "\u00e9" * 200, "a/" * 400, "alias:" + "a" * 300],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["checkpoint", "adapter"])
def test_only_what_lies_in_the_store_can_be_registered(catalog, kind, source, tiny_pipeline):
    with pytest.raises(ModelError):
        catalog.register("pixel", kind, source.format(local=tiny_pipeline))
    assert catalog.read() == {}


def test_there_is_a_limit(catalog, monkeypatch):
    monkeypatch.setattr(model_catalog, "MAX_MODELS", 1)
    catalog.register("one", "adapter", "adapters/outline")
    catalog.register("one", "adapter", "adapters/outline", pinned=True)
    with pytest.raises(ConfigError, match="delete one first"):
        catalog.register("two", "adapter", "adapters/outline")


def test_a_file_that_is_damaged_is_an_error_of_the_store(catalog):
    catalog.store.write(b"{", "serve", "models.json")
    with pytest.raises(StoreError, match="is damaged"):
        catalog.read()
