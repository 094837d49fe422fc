"""What a GPU may do otherwise than a CPU: copies, switches, memory, threads and graphs beside a training."""

from __future__ import annotations

import threading

import pytest
import torch

from emoji_ldm.generate.offline_sampler import OfflineSampler
from emoji_ldm.generate.pipeline_loader import load_model
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.model.ema import WeightAverages
from emoji_ldm.train.engines.distributed import DistributedContext, configure_torch
from emoji_ldm.train.engines.training_engine import build_engine
from emoji_ldm.train.memory_plan import MemoryPlanner
from emoji_ldm.train.optimizers.optimizer_state import OptimizerState
from tests.gpu.trainings import LATENT, TOKENS, WIDTH, network, run_steps, settings
from tests.tiny_pipelines import write_pipeline

pytestmark = pytest.mark.gpu


def test_a_copy_that_does_not_wait_holds_what_was_there_though_the_host_goes_on(device):
    """Batches are copied from memory that is not page-locked, and freed at once."""
    for _ in range(20):
        source = torch.randn(1_000_000)
        wanted, moved = float(source.sum()), source.to(device, non_blocking=True)
        source = source.zero_() if moved is not source else source
        assert float(moved.cpu().sum()) == wanted


@pytest.mark.parametrize("deterministic", [False, True])
def test_tf32_and_the_search_for_kernels_are_on_unless_bits_are_asked_for(deterministic):
    args = settings(DistributedContext(0, 1, torch.device("cpu")), deterministic=deterministic)
    configure_torch(args, DistributedContext(0, 1, torch.device("cuda")))
    assert torch.backends.cudnn.benchmark is not deterministic
    assert torch.backends.cudnn.allow_tf32 is not deterministic
    assert torch.get_float32_matmul_precision() == ("highest" if deterministic else "high")
    assert torch.are_deterministic_algorithms_enabled() is deterministic


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_training_allocates_what_was_planned(device, ranks, precision):
    # Weights and activations decide, and not the kernels' work space. A CPU takes minutes for such layers in fp16.
    wide = ("train.block_out_channels=[128,256]",) if device.type == "cuda" else ()
    with torch.device("meta"):
        module = network(*wide)

    def forward(count):
        inputs = ((count, *LATENT), (count,), (count, TOKENS, WIDTH))
        return module(*(torch.empty(shape, device="meta") for shape in inputs)).sample.sum()

    args = settings(ranks, precision=precision, ema_decay=0.99)
    planned = MemoryPlanner(module, forward, on_gpu=True).plan(args, 1).device_total
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    engine = build_engine(network(*wide), args, ranks)
    averages = WeightAverages(engine.master_shards(), 0.99)
    run_steps(engine, device, 3)
    assert averages.tensors and planned > 16 * sum(one.numel() for one in engine.master_shards())
    if device.type == "cuda":
        assert planned == pytest.approx(torch.cuda.max_memory_allocated() - before, rel=0.1)


def test_moments_of_eight_bits_are_dequantised_for_a_save_and_freed_after_it(device, ranks):
    pytest.importorskip("bitsandbytes")
    engine = build_engine(network(), settings(ranks, optimizer="adamw8bit"), ranks)
    run_steps(engine, device, 2)
    before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    state = OptimizerState(engine.optimizer, engine.optimizer_state_keys())
    assert {tensor.dtype for tensors in state.tensors.values() for tensor in tensors} == {torch.float32}
    del state
    assert (torch.cuda.memory_allocated() if device.type == "cuda" else 0) == before


def test_a_training_goes_on_with_its_bits_while_a_thread_captures_graphs_and_draws(device, ranks, tmp_path):
    """The thread holds the interpreter's lock for parts of the time, and captures while the training allocates."""
    model = load_model(write_pipeline(tmp_path / "pipeline"), device.type)
    made: list[int] = []

    def draw():
        sampler = OfflineSampler(model, 4, deterministic=True, warmup=True)
        made.append(len(sampler([GenerationRequest("a blob", seed=seed, steps=8) for seed in range(4)])))

    args = settings(ranks, deterministic=True)
    alone = run_steps(build_engine(network(), args, ranks), device, 12)
    thread = threading.Thread(target=draw)
    engine = build_engine(network(), args, ranks)
    thread.start()
    beside = run_steps(engine, device, 12)
    thread.join(300)
    assert made == [4], "the drawing failed"
    assert beside == alone
