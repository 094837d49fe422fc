"""Planned memory: by hand for a small network, and against a training that is run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from emoji_ldm.train.memory_plan import MemoryPlanner
from emoji_ldm.train.meta_memory_compat import peak_bytes
from emoji_ldm.train.training_args import build_training_args
from tests.unit.train import tiny

ARGS = replace(build_training_args(tiny.config("train.batch_size=8"), "train"), ema_widths=())


def planner(on_gpu=True):
    module = nn.Linear(100, 100, bias=False, device="meta")
    return MemoryPlanner(module, lambda count: module(torch.empty(count, 100, device="meta")).sum(), on_gpu=on_gpu)


def test_one_process_holds_weights_gradients_moments_and_an_average():
    plan = planner().plan(ARGS, 1)
    assert [plan.device[name] for name in ("weights", "gradients", "optimiser", "averages")] == [
        40_000, 40_000, 80_000, 40_000,
    ]  # fmt: skip
    assert plan.host == {"copy for saving": 160_000, "export (rank 0)": 80_000} and plan.checkpoint == 200_000
    assert planner(on_gpu=False).plan(ARGS, 1).device["copy for saving"] == 160_000


@pytest.mark.parametrize(("stage", "bytes_per_weight"), [(1, 2 + 2 + 12 / 4), (2, 2 + 14 / 4), (3, 16 / 4)])
def test_zero_shards_as_its_paper_says(stage, bytes_per_weight):
    args = replace(ARGS, zero_stage=stage, precision="bf16", ema_decay=0.0)
    device = planner().plan(args, 4).device
    assert sum(device[name] for name in ("weights", "gradients", "optimiser")) == bytes_per_weight * 10_000


def test_fsdp2_shards_frozen_weights_too_and_gathers_a_unit_at_a_time():
    args = replace(ARGS, sharding="fsdp2", zero_stage=3, precision="bf16", ema_decay=0.0)
    device = planner().plan(args, 4).device
    unit = 2 * 2 * 10_000 // 16  # two units of a sixteenth in bf16
    assert device["weights"] == 4 * 10_000 // 4 + unit and device["gradients"] == 4 * 10_000 // 4 + unit
    assert device["optimiser"] == 8 * 10_000 // 4


def test_offload_moves_masters_state_and_averages_to_the_host_and_a_folder_the_state_to_disk():
    args = replace(ARGS, zero_stage=2, precision="bf16", offload="optimizer")
    plan = planner().plan(args, 1)
    assert "optimiser" not in plan.device and plan.device["weights"] == 20_000 and plan.device["gradients"] == 0
    assert plan.host["masters and gradients"] == 80_000
    assert plan.host["optimiser"] == 80_000 and plan.host["averages"] == 40_000
    on_disk = planner().plan(replace(args, offload_folder="/nvme"), 1)
    assert "optimiser" not in on_disk.host and on_disk.host_total == plan.host_total - 120_000
    assert planner(on_gpu=False).plan(args, 1).device["optimiser"] == 80_000


def test_what_does_not_fit_is_offloaded_last_and_only_by_optimisers_that_can_be():
    args = replace(ARGS, zero_stage=1, precision="bf16")
    least = min(planner().plan(replace(args, zero_stage=3, micro_batch_size=1, offload=offload), 1).device_total
                for offload in ("optimizer", "all"))  # fmt: skip
    assert planner().fit(args, 1, least).offload == "all"
    assert planner().fit(replace(args, optimizer="muon", zero_stage=0), 1, least) is None
    assert planner().fit(args, 1, least, host_limit=1000) is None
    prodigy = replace(ARGS, optimizer="prodigy", sharding="fsdp2", zero_stage=3)
    assert planner().fit(prodigy, 4, 10**9) == prodigy


def test_the_peak_counts_what_lives_at_once():
    def passes():
        one = torch.empty(1000, device="meta")
        two = one + 1
        del one
        two * 2

    assert peak_bytes(passes) == 8_000


def test_options_that_fit_change_as_little_as_possible():
    found, whole = planner(), planner().plan(ARGS, 4).device_total
    assert found.fit(ARGS, 4, whole) == ARGS
    assert found.fit(ARGS, 4, whole - 1).zero_stage == 1
    assert found.fit(ARGS, 4, 1000) is None


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("options", [
    ["train.block_out_channels=[128,256]", "train.batch_size=32"],
    ["train.block_out_channels=[128,256]", "train.batch_size=32", "train.gradient_checkpointing=true"],
    ["train.block_out_channels=[256,512]", "train.batch_size=4"],
])  # fmt: skip
def test_a_training_on_a_cpu_needs_what_was_planned(options):
    """With a heap that gives freed memory back: what it keeps for later is no need of the training."""
    settings = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.train.planned_memory", *options]
    done = subprocess.run(command, env={**os.environ, **settings}, stdout=subprocess.PIPE, check=True, text=True)
    planned, measured = json.loads(done.stdout.splitlines()[-1])
    assert planned == pytest.approx(measured, rel=0.1)
