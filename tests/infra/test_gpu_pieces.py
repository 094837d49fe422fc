"""The runner for a GPU, on a CPU: parts of files, the starter's data there and back, resumed training."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch

from infra.gpu import parts as parts_module
from infra.gpu.parts import join_parts, part_of, split_file
from infra.gpu.pieces import Options, run_pieces
from tests.infra.starter_folder import write_starter_folder
from tests.torch_threads import one_thread  # noqa: F401

CPU = torch.device("cpu")


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(parts_module, "PART_BYTES", 10)


def test_a_file_is_the_same_after_it_went_in_parts(tmp_path, small_parts):
    (tmp_path / "weights.pt").write_bytes(bytes(range(57)))
    parts = split_file(tmp_path / "weights.pt", tmp_path / "parts")
    assert len(parts) == 6 and all(part.stat().st_size <= 10 for part in parts)
    assert {part_of(part) for part in parts} == {"weights.pt"}
    assert join_parts(tmp_path / "parts", "weights.pt", tmp_path / "back" / "weights.pt")
    assert (tmp_path / "back" / "weights.pt").read_bytes() == bytes(range(57))


def test_parts_of_an_earlier_file_go_when_the_new_ones_are_complete(tmp_path, small_parts):
    for content in (b"first" * 5, b"second" * 7):
        (tmp_path / "weights.pt").write_bytes(content)
        split_file(tmp_path / "weights.pt", tmp_path)
    assert len([path for path in tmp_path.iterdir() if part_of(path)]) == 5
    assert join_parts(tmp_path, "weights.pt", tmp_path / "joined")
    assert (tmp_path / "joined").read_bytes() == b"second" * 7


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_incomplete_or_damaged_parts_are_not_joined_and_an_older_whole_file_is(tmp_path, small_parts, damage):
    (tmp_path / "weights.pt").write_bytes(b"first" * 5)
    old = {part.name: part.read_bytes() for part in split_file(tmp_path / "weights.pt", tmp_path)}
    (tmp_path / "weights.pt").write_bytes(b"second" * 7)
    part = split_file(tmp_path / "weights.pt", tmp_path)[1]
    part.unlink() if damage == "missing" else part.write_bytes(b"0123456789")
    assert not join_parts(tmp_path, "weights.pt", tmp_path / "joined")
    for name, content in old.items():  # as if the process had died before it removed them
        (tmp_path / name).write_bytes(content)
    assert join_parts(tmp_path, "weights.pt", tmp_path / "joined")
    assert (tmp_path / "joined").read_bytes() == b"first" * 5


@pytest.fixture(scope="module")
def starter(tmp_path_factory):
    """(source folder, packed folder, restored folder)."""
    from infra.gpu.starter_data import pack_starter_data, restore_starter_data
    from infra.starter import latent_data, train_autoencoder

    root = tmp_path_factory.mktemp("starter")
    source = write_starter_folder(root / "source")
    pack_starter_data(source, root / "packed")
    with pytest.MonkeyPatch.context() as patch:
        for module in (latent_data, train_autoencoder):
            patch.setattr(module, "DATA", root / "data")  # the variable STARTER_DATA, which they read at import
        restore_starter_data(root / "packed", root / "data", CPU)
        yield source, root / "packed", root / "data"


@pytest.mark.slow
def test_restored_pictures_are_those_that_were_packed(starter):
    source, packed, data = starter
    assert np.array_equal(np.load(data / "pictures.npy"), np.load(source / "pictures.npy"))
    assert len(np.load(packed / "drawings.npy")) == 6


@pytest.mark.slow
def test_the_packed_text_encoder_gives_the_states_of_the_whole_one(starter):
    """The tables of words that no caption uses are left out, and weights are float16."""
    from emoji_ldm.latents.text_encoder import load_text_encoder

    _, packed, data = starter
    texts = json.loads((data / "texts.json").read_text())["texts"]
    encoders = [
        load_text_encoder(name, max_tokens=32, device="cpu") for name in (str(packed / "text-encoder"), "minilm")
    ]
    for ours, whole in zip(*(encoder.encode(texts) for encoder in encoders), strict=True):
        assert np.abs(ours - whole).max() < 0.01 * np.abs(whole).max()


@pytest.mark.slow
def test_the_training_of_the_starter_resumes_with_the_same_bits(starter, tmp_path):
    from infra.gpu import starter as training

    _, packed, _ = starter

    def span(folder, seconds):
        return training.train(
            training.TINY, tmp_path / folder, packed / "text-encoder", CPU, time.monotonic() + seconds
        )

    whole, paused = span("whole", 600), span("paused", 0)
    assert whole["done"] and (paused["done"], paused["step"]) == (False, 1)
    while not paused["done"]:
        paused = span("paused", 0)
    assert paused["from_step"] == training.TINY.steps - 1
    ends = []
    for folder in ("whole", "paused"):
        assert join_parts(tmp_path / folder / "parts", training.CHECKPOINT, tmp_path / folder / "joined.pt")
        ends.append(torch.load(tmp_path / folder / "joined.pt", weights_only=False))
    for kind in ("network", "average"):
        assert all(torch.equal(ends[0][kind][name], ends[1][kind][name]) for name in ends[0][kind]), kind
    assert list((tmp_path / "whole").glob("sheet-*.png"))


def test_without_time_nothing_is_started_and_everything_is_left(tmp_path):
    options = Options(tmp_path / "work", tmp_path / "output", "cpu", True, 0.0, "weights", ("tests/zero",))
    results = run_pieces(options, tmp_path, tmp_path / "packed")
    assert results["left"] == ["tests/zero"]
    assert json.loads((tmp_path / "output" / "results.json").read_text())["pieces"]["tests/zero"]["status"] == "waiting"
