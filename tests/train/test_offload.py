"""Offload on real DeepSpeed ranks: on CPUs it saves nothing, but runs the same code and must train the same."""

from __future__ import annotations

import pytest
import torch

from tests.gloo_ranks import Ranks
from tests.train import ranks_engine as ranks
from tests.train import ranks_resume as tiny_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

OFFLOADS = [(1, "optimizer"), (2, "optimizer"), (3, "optimizer"), (3, "all")]
RUN = ("train.steps=8", "train.checkpoint_every=4", "train.batch_size=8", "train.deterministic=true")


@pytest.mark.parametrize("parts", [1, pytest.param(3, marks=pytest.mark.long)])
@pytest.mark.parametrize(("stage", "offload"), OFFLOADS)
def test_an_offloaded_training_learns_what_one_process_learns(two, alone, stage, offload, parts):
    for norms, weights in two.run(ranks.same_training, stage, parts, False, "adamw", {"offload": offload}):
        assert norms == pytest.approx(alone[0], rel=1e-5)
        assert all(torch.allclose(weights[name], alone[1][name], rtol=1e-4, atol=1e-5) for name in alone[1])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("stage", "offload"), [(2, "optimizer"), (3, "all")])
def test_a_bad_step_changes_nothing(two, stage, offload, precision):
    for rank in two.run(ranks.guarded, stage, precision, {"offload": offload}):
        assert rank["kept"] and rank["finite"] and rank["moved"] and rank["steps"] == {2.0}


def test_bf16_masters_have_all_bits(two):
    assert two.run(ranks.masters, 2, {"offload": "optimizer"}) == [True] * 2


def test_a_run_with_its_state_in_files_ends_with_the_bits_of_one_in_memory(tmp_path):
    """Moments and averages lie in files of a folder, which is empty afterwards; a stopped run goes on bit for bit."""
    run, disk = (*RUN, "train.zero_stage=2", "train.offload=optimizer"), tmp_path / "disk"
    disk.mkdir()
    with Ranks(2, tmp_path / "ranks") as group:
        group.run(tiny_run.train, tmp_path / "memory", *run)
        group.run(tiny_run.train, tmp_path / "files", *run, f"train.offload_folder={disk}")
        cut = tiny_run.cut(tmp_path / "files", tmp_path / "cut", 4)
        group.run(tiny_run.train, cut, *run, f"train.offload_folder={disk}")
    assert tiny_run.state(tmp_path / "files") == tiny_run.state(tmp_path / "memory") == tiny_run.state(cut)
    assert not list(disk.iterdir())
