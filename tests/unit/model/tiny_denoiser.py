"""The U-Net of the tiny pipeline while it is trained: which weights learn, and what it gives."""

from __future__ import annotations

import torch

from emoji_ldm.config import TrainConfig

SHAPE, WIDTH = (4, 16, 16), 32  # of the tiny pipeline


def tuned(folder, **changes):
    return TrainConfig(init=str(folder), **changes)


def learning(denoiser):
    return {name: weight for name, weight in denoiser.named_parameters() if weight.requires_grad}


def moved(denoiser):
    """Trained weights as a checkpoint gives them, each a little away from where it started."""
    torch.manual_seed(5)
    return {name: weight.detach() + 0.05 * torch.randn_like(weight) for name, weight in learning(denoiser).items()}


def output(unet):
    torch.manual_seed(6)
    with torch.no_grad():
        return unet(torch.randn(2, *SHAPE), 7, torch.randn(2, 5, WIDTH)).sample
