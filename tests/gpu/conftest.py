"""The device of these tests: CUDA, without which they skip themselves, or the CPU where GPU_TESTS_DEVICE=cpu says so.

On a CPU they prove that their own code works, and nothing about kernels, memory or speed of a GPU.
"""

from __future__ import annotations

import os

import pytest
import torch

from emoji_ldm.train.engines.distributed import DistributedContext
from tests.torch_threads import one_thread  # noqa: F401


@pytest.fixture(scope="session")
def device() -> torch.device:
    chosen = torch.device(os.environ.get("GPU_TESTS_DEVICE", "cuda"))
    if chosen.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    # cuBLAS and torch read it once, at the first product of the process; strict mode, which comes later, needs it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return chosen


@pytest.fixture
def ranks(device) -> DistributedContext:
    return DistributedContext(0, 1, device)


@pytest.fixture(autouse=True)
def switches_back():
    """Training sets switches of the whole process, which the next test must not inherit."""
    before = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.get_float32_matmul_precision()
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = before[:2]
    torch.set_float32_matmul_precision(before[2])
