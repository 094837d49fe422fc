"""One training step of the starter's U-Net on a CPU: fp32, bf16 autocast, channels-last layout, plain attention.

Rates are images per second of this process's own CPU time, on one thread: on a machine with other work to do the clock
measures the neighbours. The variants take turns, and the best of their rounds counts.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import nn

from emoji_ldm.config import TrainConfig, build
from emoji_ldm.generate.unet_runner import has_native_bf16
from emoji_ldm.model.unet import build_unet
from emoji_ldm.train.engines.distributed import DistributedContext, use_channels_last
from emoji_ldm.train.engines.training_engine import build_engine
from emoji_ldm.train.training_args import build_training_args

SHAPE, TOKENS, TEXT_WIDTH = (8, 16, 16), 32, 384
WIDTHS = (96, 192, 288)
FLOOR = 1.3


def run(*, quick: bool) -> dict[str, Any]:
    """Rates of the variants and their ratios to fp32; the floor holds only where the CPU multiplies bf16 itself."""
    torch.set_num_threads(1)
    batch, rounds = (16, 2) if quick else (48, 4)
    steps = {
        "fp32": _Step("fp32", batch),
        "bf16": _Step("bf16", batch),  # as the engine does it: with plain attention
        "bf16_fused_attention": _Step("bf16", batch, fused=True),
        "bf16_channels_last": _Step("bf16", batch, channels_last=True),
    }
    for step in steps.values():
        step.seconds()
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            found[name].append(batch / step.seconds())
    rates = {name: round(max(values), 1) for name, values in found.items()}
    ratios = {f"{name}_to_fp32": round(rate / rates["fp32"], 2) for name, rate in rates.items() if name != "fp32"}
    figures = {"batch": batch, "native_bf16": has_native_bf16(), **{f"{name}_per_cpu_s": rates[name] for name in rates},
               **ratios}  # fmt: skip
    return {"figures": figures, "floor": {"bf16_to_fp32": FLOOR}, "target": {"bf16_to_fp32": 2.0},
            "holds": ratios["bf16_to_fp32"] >= FLOOR or not has_native_bf16()}  # fmt: skip


class _Step:
    """A network with its engine, and one step of it."""

    def __init__(self, precision: str, batch: int, *, fused: bool = False, channels_last: bool = False) -> None:
        train = {"precision": precision, "batch_size": batch, "zero_stage": 0, "num_workers": 1}
        args = build_training_args(build({"train": train}, where="bench"), "train")
        settings = TrainConfig(block_out_channels=WIDTHS, layers_per_block=1, num_heads=4)
        module: Any = build_unet(settings, SHAPE, TEXT_WIDTH)
        self.engine = build_engine(module, args, DistributedContext(0, 1, torch.device("cpu")))
        if fused:
            module.set_attn_processor(AttnProcessor2_0())
        if channels_last:
            use_channels_last(module)
        self.inputs = torch.randn(batch, *SHAPE), torch.full((batch,), 500), torch.randn(batch, TOKENS, TEXT_WIDTH)

    def seconds(self) -> float:
        """CPU seconds of forward, backward and update."""
        began = time.process_time()
        (output,) = self.engine.forward(*self.inputs, return_dict=False)
        self.engine.backward(nn.functional.mse_loss(output.float(), self.inputs[0]), last=True)
        self.engine.step(1e-4, float("inf"))
        return time.process_time() - began
