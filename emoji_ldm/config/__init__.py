"""One pydantic model per stage; the docstring under each field is its help text.

A `Config` is made of, later ones winning: the defaults below, a preset or YAML
file, dotted overrides such as `train.lr=1e-4`. Unknown keys and bad values raise
`ConfigError` with the nearest right name.
"""

from emoji_ldm.config.autoencoder import AutoencoderConfig
from emoji_ldm.config.caption import CaptionConfig
from emoji_ldm.config.crawl import CrawlConfig
from emoji_ldm.config.generate import GenerateConfig
from emoji_ldm.config.latents import LatentsConfig
from emoji_ldm.config.loading import build, key_of, load, preset_names
from emoji_ldm.config.ray import RayConfig
from emoji_ldm.config.root import Config
from emoji_ldm.config.serve import ServeConfig
from emoji_ldm.config.train.train_config import TrainConfig

__all__ = [
    "AutoencoderConfig",
    "CaptionConfig",
    "Config",
    "CrawlConfig",
    "GenerateConfig",
    "LatentsConfig",
    "RayConfig",
    "ServeConfig",
    "TrainConfig",
    "build",
    "key_of",
    "load",
    "preset_names",
]
