"""The configuration: one pydantic model per stage, whose attribute docstrings are the help texts.

A `Config` is made of the defaults in the models, then a preset or YAML file, then dotted overrides such as
`train.lr=1e-4`; later values win. Unknown keys and invalid values raise `ConfigError`, with the nearest valid key.
A setting that is unset is `null`, never 0 or an empty text with a second meaning.
"""

from emoji_ldm.config.autoencoder_config import AutoencoderConfig
from emoji_ldm.config.caption import CaptionConfig
from emoji_ldm.config.crawl import CrawlConfig
from emoji_ldm.config.evaluate import EvaluateConfig
from emoji_ldm.config.generate import EditOptions, GenerateConfig
from emoji_ldm.config.latents import AugmentationOptions, LatentsConfig
from emoji_ldm.config.loading import build, key_of, load, preset_names
from emoji_ldm.config.ray import RayConfig
from emoji_ldm.config.root import Config
from emoji_ldm.config.serve import ServeConfig
from emoji_ldm.config.train.train_config import TrainConfig
from emoji_ldm.config.train.unet import DreamBoothOptions, LoraOptions, TextualInversionOptions

__all__ = [
    "AugmentationOptions",
    "AutoencoderConfig",
    "CaptionConfig",
    "Config",
    "CrawlConfig",
    "DreamBoothOptions",
    "EditOptions",
    "EvaluateConfig",
    "GenerateConfig",
    "LatentsConfig",
    "LoraOptions",
    "RayConfig",
    "ServeConfig",
    "TextualInversionOptions",
    "TrainConfig",
    "build",
    "key_of",
    "load",
    "preset_names",
]
