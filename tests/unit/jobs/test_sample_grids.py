"""Sample grids beside a training: on the GPU if it has room, else on the CPU."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from emoji_ldm.config import GenerateConfig
from emoji_ldm.errors import JobError
from emoji_ldm.latents.vae import VaeCodec
from ray_jobs.execution import sample_grids
from ray_jobs.execution.sample_grids import preview


def drawn(pipeline):
    grids = preview(GenerateConfig(steps=2, num_images=1), pipeline, ("a blob",))
    return np.asarray(Image.open(io.BytesIO(grids["samples"])).convert("RGB")).astype(int)


@pytest.mark.slow
def test_beside_training_on_a_gpu_it_draws_in_half_the_memory(tiny_pipeline, monkeypatch):
    whole, kinds = drawn(tiny_pipeline), []
    monkeypatch.setattr(sample_grids, "_fits_on_gpu", lambda model: True)
    monkeypatch.setattr(sample_grids, "PREVIEW_DEVICE", "cpu")
    decode = VaeCodec.decode
    monkeypatch.setattr(VaeCodec, "decode", lambda self, latents: kinds.append(self.vae.dtype) or decode(self, latents))
    assert np.abs(drawn(tiny_pipeline) - whole).mean() < 2
    assert kinds == [torch.bfloat16]


@pytest.mark.slow
def test_it_takes_no_memory_that_training_may_need(tiny_pipeline, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**10, 2**34))
    assert drawn(tiny_pipeline).any()  # on the CPU
    monkeypatch.setattr(sample_grids, "MAX_CPU_WEIGHTS", 1000)
    with pytest.raises(JobError, match=r"a grid takes about .* GiB of GPU memory, training leaves 0\.0"):
        drawn(tiny_pipeline)


@pytest.mark.slow
def test_a_training_without_a_gpu_leaves_one_that_is_visible_alone(tiny_pipeline, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**40, 2**40))
    grids = preview(GenerateConfig(steps=2, num_images=1), tiny_pipeline, ("a blob",), on_gpu=False)
    assert grids["samples"]
