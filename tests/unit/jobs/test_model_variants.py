"""Variants of a replica's model: loaded once for all who wait, forgotten by age, and drawn with by the real batcher."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from emoji_ldm.errors import ConfigError, ModelError, StoreError
from emoji_ldm.serve.backend import Overloaded
from emoji_ldm.serve.model_catalog import RegisteredModel
from ray_jobs.serving import model_variants
from ray_jobs.serving.model_variants import ModelVariants


class NamingBatcher:
    """Holds names instead of weights."""

    def __init__(self):
        self.names, self.model = set(), "base"

    def has_variant(self, name):
        return name in self.names

    def add_variant(self, name, model, base=None):
        if base not in (None, self.model):
            return False
        self.names.add(name)
        return True

    def remove_variant(self, name):
        self.names.discard(name)


class NamingLoader:
    """Says what it was asked for; `before` runs first."""

    served = SimpleNamespace(name="tiny")

    def __init__(self, before=lambda: None):
        self.made, self.before = [], before

    def load(self, uri):
        return uri

    def add_adapters(self, model, mix, registered):
        self.before()
        self.made.append((model, "+".join(map(str, mix))))
        return model


@pytest.fixture
def catalog():
    entries = {
        "pixel": RegisteredModel("checkpoint", "uri:pixel"),
        "other": RegisteredModel("checkpoint", "uri:other"),
        "outline": RegisteredModel("adapter", "uri:outline"),
    }
    return SimpleNamespace(entries=entries, read=lambda: dict(entries))


def variants_of(catalog, loader=None, max_loaded=2):
    return ModelVariants(NamingBatcher(), loader or NamingLoader(), catalog, max_loaded)


def test_all_who_ask_wait_for_one_load(catalog):
    variants = variants_of(catalog)

    async def ask():
        return await asyncio.gather(*(variants.use("pixel", "outline:0.5") for _ in range(20)))

    assert set(asyncio.run(ask())) == {"pixel+outline:0.5"}
    assert variants.loader.made == [("uri:pixel", "outline:0.5")]


def test_the_one_asked_for_longest_ago_is_forgotten(catalog):
    variants = variants_of(catalog)

    async def ask():
        for model, lora in (("pixel", ""), ("other", ""), ("pixel", ""), ("", "outline")):
            await variants.use(model, lora)

    asyncio.run(ask())
    assert variants.batcher.names == {"pixel", "outline"}


def test_a_caller_who_leaves_does_not_end_the_load_of_others(catalog):
    opened = threading.Event()
    variants = variants_of(catalog, NamingLoader(lambda: opened.wait(10)))

    async def ask():
        first, second = (asyncio.create_task(variants.use("pixel", "")) for _ in range(2))
        await asyncio.sleep(0.05)
        first.cancel()
        opened.set()
        return await second

    assert asyncio.run(ask()) == "pixel"


def test_weights_that_do_not_fit_are_an_error_of_their_requests_alone(catalog):
    def fail():
        raise ModelError("adapter /secret/path does not fit")

    variants = variants_of(catalog, NamingLoader(fail))
    with pytest.raises(ConfigError, match="'outline' cannot be used") as caught:
        asyncio.run(variants.use("", "outline"))
    assert "/secret" not in str(caught.value)
    variants.loader.before = lambda: None
    assert asyncio.run(variants.use("", "outline")) == "outline", "the next one tries again"
    with pytest.raises(ConfigError):
        asyncio.run(variants.use("nobody", ""))


def test_weights_whose_store_is_away_are_not_broken(catalog):
    def fail():
        raise StoreError("away")

    variants = variants_of(catalog, NamingLoader(fail))
    with pytest.raises(Overloaded):
        asyncio.run(variants.use("", "outline"))
    assert not variants._broken


def test_a_mix_is_made_again_if_the_replica_takes_other_weights_meanwhile(catalog):
    variants = variants_of(catalog)
    weights = iter(["new", "new"])
    variants.loader.before = lambda: setattr(variants.batcher, "model", next(weights, "new"))
    assert asyncio.run(variants.use("", "outline")) == "outline"
    assert variants.loader.made == [("base", "outline"), ("new", "outline")]


def test_pinned_models_are_loaded_at_once_stay_and_leave_with_their_entry(catalog, monkeypatch):
    monkeypatch.setattr(model_variants, "CATALOG_S", 0.01)
    catalog.entries["outline"] = RegisteredModel("adapter", "uri:outline", pinned=True)
    variants = variants_of(catalog, max_loaded=1)

    async def until(condition):
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.01)

    async def follow():
        task = asyncio.create_task(variants.follow_catalog())
        await until(lambda: variants.batcher.names == {"outline"})
        await variants.use("pixel", "")
        await variants.use("other", "")
        assert variants.batcher.names == {"outline", "other"}
        read, catalog.read = catalog.read, lambda: (_ for _ in ()).throw(StoreError("away"))
        await asyncio.sleep(0.05)
        catalog.read = read
        assert variants.batcher.names == {"outline", "other"}, "a store that is away takes nothing out of use"
        del catalog.entries["outline"]
        await until(lambda: variants.batcher.names == {"other"})
        catalog.entries["other"] = RegisteredModel("checkpoint", "uri:newer")
        await until(lambda: not variants.batcher.names)
        task.cancel()

    asyncio.run(follow())


def test_replicas_of_other_models_do_not_load_what_is_pinned(catalog):
    catalog.entries["outline"] = RegisteredModel("adapter", "uri:outline", pinned=True)
    variants = ModelVariants(NamingBatcher(), NamingLoader(), catalog, 2, holds_pinned=False)

    async def apply():
        variants._apply(catalog.read())
        return await variants.use("", "outline")

    assert asyncio.run(apply()) == "outline" and len(variants.loader.made) == 1


def test_a_pinned_model_that_cannot_be_loaded_is_tried_once(catalog, monkeypatch):
    monkeypatch.setattr(model_variants, "CATALOG_S", 0.01)
    catalog.entries["outline"] = RegisteredModel("adapter", "uri:outline", pinned=True)
    tries = []

    def fail():
        tries.append(1)
        raise ModelError("damaged")

    async def follow():
        task = asyncio.create_task(variants_of(catalog, NamingLoader(fail)).follow_catalog())
        await asyncio.sleep(0.2)
        task.cancel()

    asyncio.run(follow())
    assert len(tries) == 1
