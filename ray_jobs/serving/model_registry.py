"""The models of a service: their names, what they mean now, and how a replica loads them."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from emoji_ldm.config import Config, ServeConfig
from emoji_ldm.errors import ConfigError, EmojiLdmError, ModelError
from emoji_ldm.generate.checkpoint_resolver import (
    CACHE_FOLDER,
    ModelLimits,
    adapter_folder,
    is_moving_reference,
    read_model_limits,
    resolve_checkpoint,
    resolve_reference,
    training_data_versions,
)
from emoji_ldm.serve.backend import RequestLimits
from emoji_ldm.store import Store

if TYPE_CHECKING:  # torch is for replicas only
    from emoji_ldm.generate.encode_decode import RgbaImage
    from emoji_ldm.generate.pipeline_loader import LatentDiffusionModel
    from emoji_ldm.generate.request import GenerationRequest


LOG = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class ServedModel:
    """A model of the service."""

    name: str  # what requests call it
    checkpoint: str  # as the configuration says; may mean other weights later
    uri: str  # what that meant when the service was deployed
    limits: RequestLimits  # what that allows


def served_models(config: Config) -> list[ServedModel]:
    """All models, the default one, which has the run's name, first.

    Raises:
        ConfigError: Two have one name, or `reload_s` has no effect.
        ModelError: There is no such model.
    """
    store, settings = Store(config.store), config.serve
    if config.run in settings.models:
        raise ConfigError(f"serve.models.{config.run}: {config.run!r}, the run's name, is that of serve.checkpoint; "
                          "choose another name")  # fmt: skip
    named = {config.run: settings.checkpoint or "", **settings.models}
    if settings.reload_s and not any(map(is_moving_reference, named.values())):
        raise ConfigError(f"serve.reload_s={settings.reload_s:g} has no effect: no model's checkpoint may mean other "
                          "weights later (null does, the run's newest, and alias:NAME)")  # fmt: skip
    return [_served(config, store, name, checkpoint) for name, checkpoint in named.items()]


def _served(config: Config, store: Store, name: str, checkpoint: str) -> ServedModel:
    folder, uri = resolve_checkpoint(config, store, CACHE_FOLDER, checkpoint)
    return ServedModel(
        name, checkpoint, uri, limits_of(name, read_model_limits(folder, config.serve.loras), config.serve)
    )


def limits_of(name: str, bounds: ModelLimits, settings: ServeConfig) -> RequestLimits:
    """What the configuration allows of what weights can draw."""
    most = min(settings.max_steps, bounds.max_steps)
    return RequestLimits(name, max_images=settings.max_images, **{**asdict(bounds), "max_steps": most})


class ModelLoader:
    """Loads the weights of one model, and notices that its checkpoint means others now."""

    def __init__(self, config: Config, served: ServedModel) -> None:
        """Begin with what was settled for all replicas, or with what others have taken meanwhile."""
        self.config, self.served, self.store = config, served, Store(config.store)
        self.uri = self._first()  # of what is drawn with
        self._versions: dict[str, dict[str, int]] = {}  # of the tables, by the model's key

    def _first(self) -> str:
        if not self.config.serve.reload_s:
            return self.served.uri
        try:
            return self.newest()
        except EmojiLdmError as error:  # a tag that went, a store that is away: what was settled is good enough
            LOG.warning("model %s starts with %s: %s", self.served.name, self.served.uri, error)
            return self.served.uri

    def newest(self) -> str:
        """URI of what the checkpoint means now; ModelError if it means nothing any more."""
        if not is_moving_reference(self.served.checkpoint):
            return self.served.uri
        return resolve_reference(self.config, self.store, self.served.checkpoint).uri

    def load(self, uri: str = "") -> LatentDiffusionModel:
        """The model at a URI (the settled one), on the device of this replica; ModelError if it cannot be loaded."""
        from emoji_ldm.generate.checkpoint_resolver import lora_key
        from emoji_ldm.generate.pipeline_loader import load_model, sampling_device
        from emoji_ldm.generate.png_metadata import describe_mode

        uri = uri or self.uri
        source, _ = resolve_checkpoint(self.config, self.store, CACHE_FOLDER, uri)
        settings = self.config.serve
        model = load_model(source, sampling_device(settings.gpus_per_worker, deterministic=settings.deterministic))
        versions = training_data_versions(self.store, uri)
        self._versions[model.key] = versions
        for folder in self._folders().values():  # a model with an adapter has a key of its own
            self._versions[lora_key(model.key, folder)] = versions
        self._mode = describe_mode(settings.batch_size, deterministic=settings.deterministic)
        return model

    def adapters(self, model: LatentDiffusionModel) -> dict[str, Path]:
        """Folders of LoRA adapters by name: of the default model all, which shall fit it, of others those that do."""
        from emoji_ldm.generate.lora_adapters import with_lora

        folders = self._folders()
        if self.served.name == self.config.run:
            return folders
        fitting = {}
        for name, folder in folders.items():
            try:
                with_lora(model, folder)
            except ModelError as error:
                LOG.warning("model %s goes without serve.loras.%s: %s", self.served.name, name, error)
            else:
                fitting[name] = folder
        return fitting

    def _folders(self) -> dict[str, Path]:
        return {name: adapter_folder(self.store, CACHE_FOLDER, f"serve.loras.{name}", value)
                for name, value in self.config.serve.loras.items()}  # fmt: skip

    def finish(self, picture: RgbaImage, draw: GenerationRequest, model: LatentDiffusionModel) -> bytes:
        """A PNG that says how it was drawn, with which weights."""
        from emoji_ldm.generate.png_metadata import provenance, to_png

        return to_png(picture, draw, provenance(model, draw, self._mode, self._versions[model.key]))
