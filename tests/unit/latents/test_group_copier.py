"""A local copy that is used before it is complete: the same values, whoever copies, and what happens in between."""

import dataclasses
import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from emoji_ldm.errors import StoreError
from emoji_ldm.latents import group_copier
from emoji_ldm.latents.group_copier import COMPLETE_FILE, EnsuredRows, GroupCopier
from emoji_ldm.latents.latent_loading import DataVersion, load_latent_set
from emoji_ldm.store import Store
from tests.synthetic_latents import KEYS, fill_store
from tests.unit.train import tiny

NUM = 1200


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    found = Store(str(tmp_path_factory.mktemp("streamed")))
    fill_store(found, NUM, shape=(4, 8, 8), width=12, num_tokens=3)
    return found


@pytest.fixture
def own_disk(tmp_path, monkeypatch):
    """No copy is there, and no set is small."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(group_copier, "MAX_BLOCKING_BYTES", 0)
    return tmp_path


@pytest.fixture
def held(monkeypatch):
    """The thread that copies the rest waits for this event."""
    go_on, copy_rest = threading.Event(), GroupCopier.copy_rest
    monkeypatch.setattr(GroupCopier, "copy_rest", lambda self: go_on.wait(60) and copy_rest(self))
    yield go_on
    go_on.set()


def load(store):
    return load_latent_set([DataVersion(store)], KEYS)


def batches(found, steps):
    task = tiny.task(tiny.config("train.batch_size=32"), found)
    return [task.prepare_batch(step, range(32)) for step in steps]


def equal(one, other):
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("latents", "noise", "text"))


def test_training_starts_before_the_copy_is_complete_with_the_batches_of_the_whole_set(store, own_disk, held):
    found = load(store)
    assert found.fill is not None and not (found.fill.folder / COMPLETE_FILE).exists()
    early = batches(found, (0, 3))
    num_ready = sum(int(copier.ready.sum()) for copier in found.fill.copiers.values())
    num_groups = sum(len(copier.groups) for copier in found.fill.copiers.values())
    assert 0 < num_ready <= num_groups
    held.set()
    found.fill.wait()
    assert (found.fill.folder / COMPLETE_FILE).exists()
    complete = load(store)
    assert complete.fill is None and not isinstance(complete.mean, EnsuredRows)
    assert all(map(equal, early, batches(complete, (0, 3))))
    assert all(map(equal, batches(found, (7,)), batches(complete, (7,))))


def test_a_rank_that_copies_nothing_in_the_background_reads_what_it_needs_itself(store, own_disk, held):
    first = load(store)
    second = load(store)  # another one holds the lock
    assert second.fill is not None
    (one,), (other,) = batches(second, (5,)), batches(first, (5,))
    assert equal(one, other)
    wanted = np.array([NUM - 1, 0])
    assert (second.mean[wanted] == first.mean[wanted]).all()
    assert (second.states[-1] == first.states[len(first.states) - 1]).all()
    assert len(list(second.states)) == len(first.states)


def test_a_process_that_ends_copies_no_more(store, own_disk, held, monkeypatch):
    found = load(store)

    def refuse(*_):
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)
    held.set()
    found.fill.wait()  # ends without an error, and without calling the copy complete
    assert not (found.fill.folder / COMPLETE_FILE).exists()


def test_an_interrupted_copy_goes_on_and_trusts_nothing_of_it(store, own_disk, held):
    found = load(store)
    batches(found, (0,))
    folder = found.fill.folder
    # As a machine leaves it that lost its power: marked as there, and the values never written.
    for copier in found.fill.copiers.values():
        copier.ready[:] = 1
    for name in ("mean-0", "states.bytes"):
        size = (folder / name).stat().st_size
        (folder / name).write_bytes(bytes(size))
    aside = folder.with_name("aside")
    shutil.copytree(folder, aside)
    held.set()
    found.fill.wait()
    shutil.rmtree(folder)
    aside.rename(folder)
    again = load(store)
    again.fill.wait()
    assert (again.mean[range(NUM)] != 0).any(axis=(1, 2, 3)).all()
    assert all((state != 0).any() for state in again.states)


def test_a_store_that_is_lost_before_the_copy_is_complete_is_one_clear_error(tmp_path, own_disk, held):
    store = Store(str(tmp_path / "lost"))
    fill_store(store, 300, shape=(4, 8, 8), width=12, num_tokens=3)
    found = load(store)
    for path in (tmp_path / "lost").rglob("*.parquet"):
        path.unlink()
    with pytest.raises(StoreError, match="latents"):
        found.mean[[0]]


def test_memory_and_values_of_a_small_set_are_there_at_once(store, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = load(store)
    in_memory = dataclasses.replace(found, mean=found.mean[range(NUM)], logvar=found.logvar[range(NUM)])
    assert (found.fill.folder / COMPLETE_FILE).exists()
    assert all(map(equal, batches(found, (0, 9)), batches(in_memory, (0, 9))))
