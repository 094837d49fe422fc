"""Configuration of diffusion training."""

from __future__ import annotations

from emoji_ldm.config.network import NetworkFields
from emoji_ldm.config.objective import ObjectiveFields
from emoji_ldm.config.optimizer import OptimizerFields
from emoji_ldm.config.scale import ScaleFields, WatchFields


class TrainConfig(WatchFields, ScaleFields, OptimizerFields, ObjectiveFields, NetworkFields):
    """Latent diffusion training: network, objective, optimiser, sharding, records."""
