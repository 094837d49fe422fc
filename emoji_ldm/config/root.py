"""`Config`: all sections under one root."""

from __future__ import annotations

import json
from typing import Annotated, Self

import yaml
from pydantic import BeforeValidator, model_validator

from emoji_ldm.config.autoencoder_config import AutoencoderConfig
from emoji_ldm.config.base import Identifier, Section, as_text
from emoji_ldm.config.caption import CaptionConfig
from emoji_ldm.config.crawl import CrawlConfig
from emoji_ldm.config.evaluate import EvaluateConfig
from emoji_ldm.config.generate import GenerateConfig
from emoji_ldm.config.latents import LatentsConfig
from emoji_ldm.config.ray import RayConfig
from emoji_ldm.config.serve import ServeConfig
from emoji_ldm.config.train.train_config import TrainConfig


class Config(Section):
    """Everything a run depends on. Written into every commit and checkpoint."""

    run: Identifier = "default"
    """Name of the run; its checkpoints and report carry it."""
    store: str = "data"
    """URI of the store: a folder, or s3://bucket/prefix."""
    branch: str | None = None
    """Branch whose tables are read and written; null is the main line."""
    # YAML turns times into dates, which this validator turns back into text.
    as_of: Annotated[str | None, BeforeValidator(as_text)] = None
    """Tag, time (2026-11-21T10:00) or TABLE@VERSION at which tables are read; null reads the newest versions."""
    crawl: CrawlConfig = CrawlConfig()
    caption: CaptionConfig = CaptionConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    latents: LatentsConfig = LatentsConfig()
    train: TrainConfig = TrainConfig()
    generate: GenerateConfig = GenerateConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    serve: ServeConfig = ServeConfig()
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _take_parts_of_init(self) -> Self:
        """Resolve `init` in `latents.vae` and `latents.text_encoder`: the parts of the pipeline `train.init`."""
        # `init` is resolved here, once, so that all stages and the stored configuration name the same source.
        named = [field for field in ("vae", "text_encoder") if getattr(self.latents, field) == "init"]
        if named and not self.train.init:
            raise ValueError(f"latents.{named[0]}=init is that of train.init, which is empty; name a pipeline there")
        if named:
            latents = self.latents.model_copy(update=dict.fromkeys(named, self.train.init))
            # The model is frozen, but it has not been returned to anybody yet.
            object.__setattr__(self, "latents", latents)
        return self

    def to_json(self) -> str:
        """The resolved configuration as JSON, for commits and checkpoints."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True)

    def to_yaml(self) -> str:
        """The resolved configuration as YAML that `load` reads back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
