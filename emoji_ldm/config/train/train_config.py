"""Section `train`: diffusion training, put together from its groups of fields."""

from __future__ import annotations

from emoji_ldm.config.train.distributed import DistributedFields
from emoji_ldm.config.train.monitoring import MonitoringFields
from emoji_ldm.config.train.objective import ObjectiveFields
from emoji_ldm.config.train.optimizer import OptimizerFields
from emoji_ldm.config.train.unet import UNetFields


class TrainConfig(MonitoringFields, DistributedFields, OptimizerFields, ObjectiveFields, UNetFields):
    """Latent diffusion training: network, objective, optimiser, distribution, monitoring."""
