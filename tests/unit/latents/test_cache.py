"""The cached latents and text states: rounding, order, memory, and clear errors for missing rows."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from emoji_ldm.config import Config
from emoji_ldm.dataset.lineage import Lineage, RunInfo
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import DatasetError
from emoji_ldm.latents.cache import (
    DETERMINISTIC_LOGVAR,
    FLOAT16,
    STATE_MANTISSA_BITS,
    latent_rows,
    load_latent_set,
    text_rows,
    text_state_bytes,
    to_bytes,
)
from emoji_ldm.schemas import CAPTIONS, LATENTS, TEXT_EMBEDDINGS
from emoji_ldm.store import Store
from tests.emoji_images import blobs, fill_images

KEYS = {"vae_key": "codec", "encoder_key": "encoder"}


def commit(store, spec, rows, name):
    table = Table(store, spec)
    table.commit(
        [table.write_file(rows)],
        app_id=name,
        metadata=Lineage(RunInfo("default", Config().to_json()), "test", {}).metadata({}, name),
    )


def caption_table(pairs):
    rows = [{"caption_id": f"{image_id}{caption}", "image_id": image_id, "caption": caption, "engine": "test",
             "status": "ok" if caption else "failed"} for image_id, caption in pairs]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=CAPTIONS.schema)


def moments(count, seed=0):
    return np.random.default_rng(seed).normal(size=(2, count, 4, 8, 8)).astype(np.float32)


def states(*lengths):
    return [np.full((length, 6), length, np.float32) for length in lengths]


@pytest.fixture
def filled(tmp_path):
    """Four images: two captions, one shared caption, one failed, none."""
    store = Store(str(tmp_path))
    ids = sorted(fill_images(store, blobs(4)))
    pairs = [(ids[0], "a blob"), (ids[0], "a cat"), (ids[1], "a blob"), (ids[2], ""), ("gone", "a ghost")]
    commit(store, CAPTIONS, caption_table(pairs), "captions")
    return store, ids


def test_states_are_rounded_each_to_a_part_of_itself():
    values = np.random.default_rng(0).standard_normal(10_000).astype(np.float32) * np.float32(10.0) ** np.arange(
        -2, 3, 5 / 10_000
    )
    found = np.frombuffer(text_state_bytes(values), FLOAT16).astype(np.float32)
    assert (abs(found - values) <= abs(values) / 2 ** (STATE_MANTISSA_BITS + 1) * 1.1 + 1e-6).all()
    assert len({*np.frombuffer(text_state_bytes(values), np.uint16) & 0xF}) == 1, "what does not compress is gone"
    assert (
        abs(np.frombuffer(text_state_bytes(np.float32([1e9, -1e9, 65500])), FLOAT16).astype(np.float32)).max() == 65024
    )
    assert np.frombuffer(text_state_bytes(np.float32([0, -1.5, 1024])), FLOAT16).tolist() == [0, -1.5, 1024]


def test_values_survive_as_half_precision():
    values = moments(1)[0]
    np.testing.assert_allclose(np.frombuffer(to_bytes(values), FLOAT16), values.ravel(), atol=2e-3)
    assert len(to_bytes(values)) == 2 * values.size
    assert np.frombuffer(to_bytes(np.float32([1e9, -30])), FLOAT16).tolist() == [65504, -30]


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
    found = load_latent_set(store, **KEYS)
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
    found = load_latent_set(store, **KEYS)
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
    found = load_latent_set(store, **KEYS)
    _, peak = tracemalloc.get_traced_memory()  # of Python and numpy
    tracemalloc.stop()
    assert peak < 5e6
    assert {state.dtype.str for state in found.states} == {"<f2"}


def test_a_set_is_copied_once_per_version_and_opened_without_reading_the_tables(filled, monkeypatch):
    store, ids = filled
    commit(store, LATENTS, latent_rows(ids[:2], "codec", *moments(2)), "latents")
    commit(store, TEXT_EMBEDDINGS, text_rows(["a cat", "a blob", ""], "encoder", states(4, 3, 2)), "text_embeddings")
    first = load_latent_set(store, **KEYS)
    with monkeypatch.context() as patch:
        patch.setattr(Table, "batches", lambda *_, **__: pytest.fail("read again"))
        patch.setattr(Table, "read", lambda *_, **__: pytest.fail("read again"))
        again = load_latent_set(store, **KEYS)
    assert (again.mean[[0, 1]] == first.mean[[0, 1]]).all() and again.versions == first.versions
    commit(store, CAPTIONS, caption_table([(ids[0], "a dog")]), "more")
    commit(store, TEXT_EMBEDDINGS, text_rows(["a dog"], "encoder", states(5)), "more states")
    assert list(load_latent_set(store, **KEYS).captions) == ["", "a blob", "a cat", "a dog"]


def test_latents_of_another_size_are_refused(filled):
    store, ids = filled
    commit(store, LATENTS, latent_rows(ids[:1], "codec", *moments(1)), "latents")
    commit(store, LATENTS, latent_rows(ids[1:2], "codec", *np.zeros((2, 1, 4, 4, 4), np.float32)), "small")
    commit(store, TEXT_EMBEDDINGS, text_rows(["a cat", "a blob", ""], "encoder", states(4, 3, 2)), "text_embeddings")
    with pytest.raises(DatasetError, match=r"an image has latents of shape .* encode all at one size"):
        load_latent_set(store, **KEYS)


def test_what_lacks_is_counted_and_the_command_named(filled, tmp_path):
    store, ids = filled
    with pytest.raises(DatasetError, match=r"2 of 2 images have no latents.*run: emoji-ldm latents"):
        load_latent_set(store, **KEYS)
    commit(store, LATENTS, latent_rows(ids[:2], "codec", *moments(2)), "latents")
    commit(store, TEXT_EMBEDDINGS, text_rows(["a cat"], "encoder", states(4)), "text_embeddings")
    with pytest.raises(DatasetError, match=r"2 of 3 captions have no states.*run: emoji-ldm latents"):
        load_latent_set(store, **KEYS)
    with pytest.raises(DatasetError, match="run: emoji-ldm caption"):
        load_latent_set(Store(str(tmp_path / "empty")), **KEYS)
