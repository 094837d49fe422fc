"""The training data: order, memory, mixtures and weights, and clear errors for missing rows."""

import hashlib
import tracemalloc

import numpy as np
import pytest

from emoji_ldm.config import load as load_config
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import DatasetError
from emoji_ldm.latents.cache import DETERMINISTIC_LOGVAR, latent_rows, text_rows
from emoji_ldm.latents.latent_loading import DataVersion, EncodingKeys, data_versions, load_latent_set, sample_weights
from emoji_ldm.latents.tag_orders import tag_orders
from emoji_ldm.schemas import CAPTIONS, LATENTS, TEXT_EMBEDDINGS
from emoji_ldm.store import Store
from tests.emoji_images import blobs, fill_images
from tests.unit.latents.test_cache import caption_table, commit, moments, states


def load(*stores, **options):
    """The set of the newest versions of these stores."""
    return load_latent_set([DataVersion(store) for store in stores], EncodingKeys(["codec"], "encoder", **options))


@pytest.fixture
def filled(tmp_path):
    """Four images: two captions, one shared caption, one failed, none."""
    store = Store(str(tmp_path))
    ids = sorted(fill_images(store, blobs(4)))
    pairs = [(ids[0], "a blob"), (ids[0], "a cat"), (ids[1], "a blob"), (ids[2], ""), ("gone", "a ghost")]
    commit(store, CAPTIONS, caption_table(pairs), "captions")
    return store, ids


def test_the_set_is_sorted_deduplicated_and_complete(filled):
    store, ids = filled
    mean, logvar = moments(2)
    commit(store, LATENTS, latent_rows([ids[1], ids[0]], "codec", mean, logvar), "latents")
    commit(store, LATENTS, latent_rows(ids, "other", *moments(4, 1)), "others")
    commit(
        store,
        TEXT_EMBEDDINGS,
        text_rows(["a cat", "a blob", "", "unused"], "encoder", states(4, 3, 2, 9)),
        "text_embeddings",
    )
    found = load(store)
    assert list(found.image_ids) == ids[:2]
    np.testing.assert_allclose(found.mean[[0, 1]], mean[::-1], atol=2e-3)
    np.testing.assert_allclose(found.logvar[[0, 1]], logvar[::-1], atol=2e-3)
    assert (found.mean.dtype, found.mean.shape) == (np.float16, (2, 4, 8, 8))
    assert list(found.captions) == ["", "a blob", "a cat"]
    assert list(found.caption_indices) == [[1, 2], [1]]
    assert [len(state) for state in found.states] == [2, 3, 4]
    assert all((state == len(state)).all() for state in found.states)
    assert (found.empty_index, found.num_uncaptioned) == (0, 2)
    assert found.versions == {"images": 2, "captions": 1, "latents": 2, "text_embeddings": 1}


def test_posteriors_without_spread_take_no_memory_for_it(filled):
    store, ids = filled
    mean, _ = moments(2)
    commit(store, LATENTS, latent_rows(ids[:2], "codec", mean, np.full_like(mean, DETERMINISTIC_LOGVAR)), "latents")
    commit(store, TEXT_EMBEDDINGS, text_rows(["a cat", "a blob", ""], "encoder", states(4, 3, 2)), "text_embeddings")
    found = load(store)
    assert found.logvar.base.nbytes == 2
    drawn = found.sample(np.array([1, 0]), np.ones((2, 4, 8, 8), np.float32), np.zeros(2))
    assert (drawn == found.mean[[1, 0]]).all()


def test_memory_does_not_grow_with_the_set(filled):
    store, ids = filled
    commit(store, LATENTS, latent_rows(ids[:2], "codec", *moments(2)), "latents")
    many = [np.zeros((77, 768), np.float32)] * 300  # 35 MB as stored
    captions = [*(f"unused {number}" for number in range(297)), "a cat", "a blob", ""]
    commit(store, TEXT_EMBEDDINGS, text_rows(captions, "encoder", many), "text_embeddings")
    tracemalloc.start()
    found = load(store)
    _, peak = tracemalloc.get_traced_memory()  # of Python and numpy
    tracemalloc.stop()
    assert peak < 5e6
    assert {state.dtype.str for state in found.states} == {"<f2"}


def test_a_set_is_copied_once_per_version_and_opened_without_reading_the_tables(filled, monkeypatch):
    store, ids = filled
    commit(store, LATENTS, latent_rows(ids[:2], "codec", *moments(2)), "latents")
    commit(store, TEXT_EMBEDDINGS, text_rows(["a cat", "a blob", ""], "encoder", states(4, 3, 2)), "text_embeddings")
    first = load(store)
    with monkeypatch.context() as patch:
        patch.setattr(Table, "batches", lambda *_, **__: pytest.fail("read again"))
        patch.setattr(Table, "read", lambda *_, **__: pytest.fail("read again"))
        again = load(store)
    assert (again.mean[[0, 1]] == first.mean[[0, 1]]).all() and again.versions == first.versions
    commit(store, CAPTIONS, caption_table([(ids[0], "a dog")]), "more")
    commit(store, TEXT_EMBEDDINGS, text_rows(["a dog"], "encoder", states(5)), "more states")
    assert list(load(store).captions) == ["", "a blob", "a cat", "a dog"]


def test_latents_of_another_size_are_refused(filled):
    store, ids = filled
    commit(store, LATENTS, latent_rows(ids[:1], "codec", *moments(1)), "latents")
    commit(store, LATENTS, latent_rows(ids[1:2], "codec", *np.zeros((2, 1, 4, 4, 4), np.float32)), "small")
    commit(store, TEXT_EMBEDDINGS, text_rows(["a cat", "a blob", ""], "encoder", states(4, 3, 2)), "text_embeddings")
    with pytest.raises(DatasetError, match=r"an image has latents of shape .* encode all at one size"):
        load(store)


def test_what_lacks_is_counted_and_the_command_named(filled, tmp_path):
    store, ids = filled
    with pytest.raises(DatasetError, match=r"2 of 2 images have no latents.*run: emoji-ldm latents"):
        load(store)
    commit(store, LATENTS, latent_rows(ids[:2], "codec", *moments(2)), "latents")
    commit(store, TEXT_EMBEDDINGS, text_rows(["a cat"], "encoder", states(4)), "text_embeddings")
    with pytest.raises(DatasetError, match=r"2 of 3 captions have no states.*run: emoji-ldm latents"):
        load(store)
    with pytest.raises(DatasetError, match="run: emoji-ldm caption"):
        load(Store(str(tmp_path / "empty")))


@pytest.fixture
def two(tmp_path):
    """Two stores with three images each, of which they share one."""
    stores = [Store(str(tmp_path / name)) for name in "ab"]
    for number, store in enumerate(stores):
        ids = sorted(fill_images(store, blobs(5)[2 * number : 2 * number + 3]))
        commit(
            store, CAPTIONS, caption_table([(image_id, f"from {number}, red, round") for image_id in ids]), "captions"
        )
        commit(store, LATENTS, latent_rows(ids, "codec", *moments(3, number)), "latents")
        texts = [f"from {number}, red, round", f"from {number}, round, red", ""]
        commit(store, TEXT_EMBEDDINGS, text_rows(texts, "encoder", states(3, 4, 2)), "states")
    return stores


def test_data_sets_that_are_mixed_follow_one_another_and_share_captions(two):
    own = [load(store) for store in two]
    both = load(*two)
    assert list(both.image_ids) == [*own[0].image_ids, *own[1].image_ids] and both.source_sizes == [3, 3]
    assert (both.mean[range(6)] == np.concatenate([one.mean[range(3)] for one in own])).all()
    assert list(both.captions) == ["", "from 0, red, round", "from 1, red, round"]
    assert list(both.caption_indices) == [[1]] * 3 + [[2]] * 3
    assert both.versions["mix 1 images"] == own[1].versions["images"]


def test_augmentations_of_mixed_sets_lie_where_sampling_looks_for_them(two):
    for number, store in enumerate(two):
        ids = list(load(store).image_ids)
        commit(store, LATENTS, latent_rows(ids, "mirrored", *moments(3, 10 + number)), "mirrored")
    found = load_latent_set([DataVersion(store) for store in two], EncodingKeys(["codec", "mirrored"], "encoder"))
    single = [load_latent_set([DataVersion(store)], EncodingKeys(["codec", "mirrored"], "encoder")) for store in two]
    noise, rows = np.zeros((3, 4, 8, 8), np.float32), np.arange(3)
    for number, one in enumerate(single):
        for augmentation in (np.zeros(3), np.full(3, 0.5)):
            expected = one.sample(rows, noise, augmentation)
            assert (found.sample(rows + 3 * number, noise, augmentation) == expected).all()


def test_other_orders_of_the_tags_are_further_captions(two):
    found = load(two[0], tag_orders=3)
    assert list(found.captions) == ["", "from 0, red, round", "from 0, round, red"]
    assert list(found.caption_indices) == [[1, 2]] * 3


def test_weights_follow_the_shares_of_the_sets_and_the_tags_of_the_images(two):
    sources = [DataVersion(store) for store in two]
    data = load(*two)
    even = sample_weights(sources, data, [1, 0.5], {})
    assert even[:3].sum() == pytest.approx(2 * even[3:].sum()) and len(set(even[:3])) == 1
    tags = {tag for picture in blobs(5) for tag in picture.tags}
    tag = min(tags, key=lambda one: hashlib.sha256(one.encode()).digest())
    weighted = sample_weights(sources, data, [1, 1], {tag: 3.0})
    for start in (0, 3):
        assert weighted[start : start + 3].sum() == pytest.approx(1), "tags do not change the share of a set"
    with pytest.raises(DatasetError, match=r"train\.sample_weights drops every image"):
        sample_weights(sources, data, [1, 1], dict.fromkeys(tags, 0.0))


def test_the_run_names_its_own_data_first(two):
    config = load_config(
        None, [f"store={two[0].uri}", "as_of=v1", f"train.mix=[{{store: {two[1].uri}, as_of: v2}}, {{}}]"]
    )
    found = data_versions(config, two[0])
    assert [(one.store.uri, one.as_of) for one in found] == [(two[0].uri, "v1"), (two[1].uri, "v2"), (two[0].uri, None)]


def test_tag_orders_keep_the_subject_first_and_never_change():
    found = tag_orders("a cat, blue, round, soft", 5)
    assert len(found) == len(set(found)) == 5 and all(one.startswith("a cat, ") for one in found)
    assert all(sorted(one.split(", ")) == ["a cat", "blue", "round", "soft"] for one in found)
    assert found == tag_orders("a cat, blue, round, soft", 5) and found[:2] == tag_orders("a cat, blue, round, soft", 2)
    assert tag_orders("a cat, blue", 5) == [] and tag_orders("a, b, c", 9) == ["a, c, b"]
