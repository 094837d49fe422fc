"""Pack a trained starter for the wheel: large weights as int8 with a scale per output channel, the rest as float16.

`python -m infra.starter.export starter` writes the folder that `emoji_ldm.latents.starter_model` reads.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from emoji_ldm.latents.premultiplied_adapter import PremultipliedAutoencoder
from emoji_ldm.latents.starter_model import MANIFEST, PACKAGED_FOLDER, SCALE_SUFFIX
from infra.starter.model_card import NOTICE, model_card
from infra.starter.networks import build_network
from infra.starter.paths import DATA
from infra.starter.text_states import MAX_TOKENS

# Smaller weights stay float16: the first and last convolution, what reads the time, and some projections. All of them
# together take 2 MB more than as int8.
MIN_INT8_NUMBERS = 80_000
MAX_BYTES = 40_000_000  # of the whole folder, as it becomes part of the wheel
SCHEDULER = {
    "_class_name": "DPMSolverMultistepScheduler", "num_train_timesteps": 1000, "prediction_type": "flow_prediction",
    "use_flow_sigmas": True, "solver_order": 2, "algorithm_type": "dpmsolver++", "solver_type": "midpoint",
    "steps_offset": 1,
    # More of the steps at high noise, where most of a picture is decided: with 2 instead of 1, 8 steps come 4 dB nearer
    # to 120 steps, and 25 steps 6 dB (NOTEBOOK.md, "Few steps").
    "flow_shift": 2.0,
}  # fmt: skip


def pack(weights: dict[str, Tensor], min_int8_numbers: int) -> dict[str, Tensor]:
    """Weights as they are shipped; the error of a weight is at most 1/254 of the largest of its output channel."""
    packed = {}
    for name, weight in weights.items():
        if weight.ndim < 2 or weight.numel() < min_int8_numbers:
            packed[name] = weight.half().contiguous()
            continue
        scale = weight.flatten(1).abs().amax(1).clamp_min(1e-12) / 127
        packed[name] = (weight / scale.view(-1, *[1] * (weight.ndim - 1))).round().to(torch.int8).contiguous()
        packed[name + SCALE_SUFFIX] = scale.float()
    return packed


def write_package(
    folder: Path, unet: Any, vae: PremultipliedAutoencoder, training: dict[str, Any], *,
    max_tokens: int = MAX_TOKENS, min_int8_numbers: int = MIN_INT8_NUMBERS,
) -> int:  # fmt: skip
    """Write weights, configurations and the manifest of a starter; returns the size of the folder in bytes.

    Args:
        folder: Where to write; it is created.
        unet: A `UNet2DConditionModel` that predicts the direction of rectified flow.
        vae: Its autoencoder.
        training: Facts about the training, for the manifest and the model card.
        max_tokens: Length to which prompts were padded in training.
        min_int8_numbers: Weights of fewer numbers stay float16.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file(pack(unet.state_dict(), min_int8_numbers), folder / "unet.safetensors")
    save_file(
        {name: weight.half().contiguous() for name, weight in vae.state_dict().items()}, folder / "vae.safetensors"
    )
    configurations = {"unet": json.loads(unet.to_json_string()), "vae": json.loads(vae.to_json_string()),
                      "scheduler": SCHEDULER}  # fmt: skip
    for name, settings in configurations.items():
        (folder / f"{name}.json").write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n")
    files = [*(f"{name}.json" for name in configurations), "unet.safetensors", "vae.safetensors"]
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sorted(files)}
    manifest = {"files": hashes, "max_tokens": max_tokens, "training": training}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    (folder / "README.md").write_text(model_card(training))
    (folder / "NOTICE").write_text(NOTICE)
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors makes files that only their owner can read
    return sum(path.stat().st_size for path in folder.iterdir())


def load_trained(run: str) -> tuple[Any, PremultipliedAutoencoder, dict[str, Any]]:
    """The averaged U-Net and the autoencoder of a training run in float32, and facts about the training."""
    state = torch.load(DATA / "diffusion" / run / "last.pt", map_location="cpu", weights_only=False)
    options = state["options"]
    if (options["network"], options["objective"]) != ("unet", "flow"):
        raise SystemExit(f"run {run} is a {options['network']} for {options['objective']}; only a U-Net for flow ships")
    network = build_network("unet", tuple(state["shape"]), options["widths"], options["depth"])
    network.load_state_dict(state["average"])
    folder = DATA / "autoencoder" / options["autoencoder"]
    images = torch.load(folder / "last.pt", map_location="cpu", weights_only=False)
    figures, shape = json.loads((folder / "latents.json").read_text()), images["shape"]
    vae = PremultipliedAutoencoder(
        block_out_channels=(4, *shape["widths"]), encoder_blocks=shape["encoder_blocks"],
        decoder_blocks=shape["decoder_blocks"], latent_channels=shape["latent_channels"],
        latents_mean=figures["mean"], latents_std=figures["std"],
    )  # fmt: skip
    vae.load_state_dict(images["average"])
    told = ("optimizer", "lr", "decay", "batch", "widths", "depth", "time_mean", "time_std")
    facts = {name: options[name] for name in told}
    parameters = {"unet": count(network), "vae": count(vae)}
    training = {"step": state["step"], "images": state["step"] * options["batch"], "parameters": parameters, **facts}
    return network.unet.eval(), vae.eval(), training


def count(module: torch.nn.Module) -> int:
    """Number of a module's weights."""
    return sum(weight.numel() for weight in module.parameters())


def main() -> None:
    """Write the folder and print its size; refuse one that is too large for the wheel."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--output", type=Path, default=PACKAGED_FOLDER)
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = write_package(options.output, *load_trained(options.run))
    print(f"{options.output}: {size / 1e6:.1f} MB")
    if size > MAX_BYTES:
        raise SystemExit(f"at most {MAX_BYTES / 1e6:.0f} MB may be shipped")


if __name__ == "__main__":
    main()
