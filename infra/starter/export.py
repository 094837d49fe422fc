"""Pack averaged weights for shipping: large weights as int8 with a scale per output, the rest as float16."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from infra.starter.paths import DATA

SCALE = ".scale"  # suffix of a weight's scales, `(outputs,)` float32
LARGE = 4096  # numbers from which a weight is worth int8


def pack(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights as they are shipped; the error of a weight is at most 1/254 of the largest of its output."""
    packed = {}
    for name, weight in weights.items():
        if weight.ndim < 2 or weight.numel() < LARGE:
            packed[name] = weight.half().contiguous()
            continue
        scale = weight.flatten(1).abs().amax(1).clamp_min(1e-12) / 127
        packed[name] = (weight / scale.view(-1, *[1] * (weight.ndim - 1))).round().to(torch.int8).contiguous()
        packed[name + SCALE] = scale.float()
    return packed


def unpack(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """Float32 weights again."""
    weights = {}
    for name, weight in packed.items():
        if name.endswith(SCALE):
            continue
        scale = packed.get(name + SCALE)
        weights[name] = weight.float() if scale is None else weight.float() * scale.view(-1, *[1] * (weight.ndim - 1))
    return weights


def main() -> None:
    """Write unet.safetensors, autoencoder.safetensors (float16) and config.json of a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--output", type=Path, default=DATA / "export")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    state = torch.load(DATA / "diffusion" / options.run / "last.pt", map_location="cpu", weights_only=False)
    autoencoder = DATA / "autoencoder" / state["options"]["autoencoder"]
    images = torch.load(autoencoder / "last.pt", map_location="cpu", weights_only=False)
    save_file(
        pack({name.removeprefix("unet."): weight for name, weight in state["average"].items()}),
        options.output / "unet.safetensors",
    )
    save_file(
        {name: weight.half().contiguous() for name, weight in images["average"].items()},
        options.output / "autoencoder.safetensors",
    )
    config = {
        "network": {name: state["options"][name] for name in ("network", "objective", "widths", "depth")},
        "latent_shape": state["shape"], "autoencoder": images["shape"], "step": state["step"],
        "latents": json.loads((autoencoder / "latents.json").read_text()),
    }  # fmt: skip
    (options.output / "config.json").write_text(json.dumps(config, indent=1))
    back = unpack(load_file(options.output / "unet.safetensors"))
    worst = max(
        float((back[name.removeprefix("unet.")] - weight).abs().max() / weight.abs().max().clamp_min(1e-9))
        for name, weight in state["average"].items()
    )
    size = sum(path.stat().st_size for path in options.output.glob("*.safetensors"))
    print(f"{size / 1e6:.1f} MB, largest error of a weight {worst:.4f} of the layer's largest")


if __name__ == "__main__":
    main()
