"""The models of a service: their names, which weights these mean now, and how a replica loads them.

The driver resolves every checkpoint once, so that all replicas of a deployment load the same weights. With
`serve.reload_s`, each replica later looks whether an alias, or the run's newest checkpoint, means other weights.
A replica may also start long after that, when the training that made the weights has deleted them for newer ones
(`train.keep_last`). It then resolves the reference again: a service outlives its first checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from emoji_ldm.config import Config
from emoji_ldm.errors import ConfigError, EmojiLdmError, ModelError, StoreError, UntrainedError
from emoji_ldm.generate.checkpoint_resolver import (
    CACHE_FOLDER,
    adapter_folder,
    is_moving_reference,
    read_model_limits,
    resolve_checkpoint,
    resolve_reference,
    training_data_versions,
)
from emoji_ldm.latents.starter_model import STARTER
from emoji_ldm.serve.backend import RequestLimits
from emoji_ldm.serve.model_catalog import limits_of
from emoji_ldm.store import Store

if TYPE_CHECKING:  # only replicas import torch
    from emoji_ldm.generate.adapter_mix import AdapterWeight
    from emoji_ldm.generate.encode_decode import RgbaImage
    from emoji_ldm.generate.pipeline_loader import LatentDiffusionModel
    from emoji_ldm.generate.request import GenerationRequest


LOG = logging.getLogger("ray.serve")
# How often a starting replica tries to load weights that it cannot have yet: for a quarter of an hour, as long as a
# store may take to be set up. Ray Serve starts some more replicas after that.
LOAD_TRIES = 20
LOAD_PAUSE_S, LONGEST_LOAD_PAUSE_S = 1.0, 60.0


@dataclass(frozen=True)
class ServedModel:
    """A model of the service, as the driver resolved it."""

    name: str  # what requests call it
    checkpoint: str  # as configured; it may mean other weights later
    uri: str  # what that meant when the service was deployed
    limits: RequestLimits  # what that allows


def served_models(config: Config) -> list[ServedModel]:
    """Return all models; the default one, which has the name of the run, is first.

    Raises:
        ConfigError: Two have one name, or `reload_s` has no effect.
        ModelError: There is no such model.
    """
    store, settings = Store(config.store), config.serve
    if config.run in settings.models:
        raise ConfigError(f"serve.models.{config.run}: {config.run!r}, the run's name, is that of serve.checkpoint; "
                          "choose another name")  # fmt: skip
    # The order matters: the first model answers requests that name none.
    named = {config.run: settings.checkpoint or "", **settings.models}
    if settings.reload_s and not any(map(is_moving_reference, named.values())):
        raise ConfigError(f"serve.reload_s={settings.reload_s:g} has no effect: no model's checkpoint may mean other "
                          "weights later (null does, the run's newest, and alias:NAME)")  # fmt: skip
    return [_served(config, store, name, checkpoint) for name, checkpoint in named.items()]


def _served(config: Config, store: Store, name: str, checkpoint: str) -> ServedModel:
    # The URI of the resolved weights is pinned: a replica that starts an hour later loads the same ones as the first.
    folder, uri = resolve_checkpoint(config, store, CACHE_FOLDER, checkpoint)
    return ServedModel(
        name, checkpoint, uri, limits_of(name, read_model_limits(folder, config.serve.loras), config.serve)
    )


class ModelLoader:
    """Loads the weights of one model, and finds out that its checkpoint means others now."""

    def __init__(self, config: Config, served: ServedModel) -> None:
        """Start with the weights that the driver resolved or, with `reload_s`, with newer ones."""
        self.config, self.served, self.store = config, served, Store(config.store)
        self.uri = self._initial_uri()  # of the weights in use
        self._versions: dict[str, dict[str, int]] = {}  # of the tables, by the model's key

    def _initial_uri(self) -> str:
        if not self.config.serve.reload_s:
            return self.served.uri
        try:
            return self.current_uri()
        except EmojiLdmError as error:
            # Such as a deleted alias. The weights that the driver resolved still serve; raising would stop the replica.
            LOG.warning("model %s starts with %s: %s", self.served.name, self.served.uri, error)
            return self.served.uri

    def current_uri(self) -> str:
        """Return the URI of the weights that the checkpoint means now; ModelError if it means none any more."""
        if not is_moving_reference(self.served.checkpoint):
            return self.served.uri
        try:
            return resolve_reference(self.config, self.store, self.served.checkpoint).uri
        except UntrainedError:
            # The starter serves until the run has its first checkpoint.
            if self.served.uri == STARTER:
                return STARTER
            raise

    def load_first(self) -> LatentDiffusionModel:
        """Load the model that a starting replica serves; with a moving reference, try again where that fails.

        Ray Serve gives an application up for good whose replicas raise a few times, although the next checkpoint of a
        training, or a store that answers again, would cure it.

        Raises:
            ModelError, StoreError: The last of `LOAD_TRIES` failed, or the reference cannot mean other weights later.
        """
        tries = Retrying(
            wait=wait_exponential(multiplier=LOAD_PAUSE_S, max=LONGEST_LOAD_PAUSE_S),
            stop=stop_after_attempt(LOAD_TRIES),
            retry=retry_if_exception_type((ModelError, StoreError)),
            before_sleep=self._resolve_again,
            reraise=True,
        )
        return tries(self.load) if is_moving_reference(self.served.checkpoint) else self.load()

    def _resolve_again(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        LOG.warning("model %s cannot be loaded from %s yet: %s", self.served.name, self.uri, error)
        try:
            self.uri = self.current_uri()
        except EmojiLdmError as other:  # such as a run whose only checkpoint is gone; the next try asks again
            LOG.warning("model %s: %s", self.served.name, other)

    def load(self, uri: str = "") -> LatentDiffusionModel:
        """Load the model at a URI (`self.uri` by default) on this replica's device; ModelError if that fails."""
        from emoji_ldm.generate.checkpoint_resolver import lora_key
        from emoji_ldm.generate.pipeline_loader import load_model, sampling_device
        from emoji_ldm.generate.png_metadata import describe_mode

        # `self.uri` is not changed here: until the batcher uses the new weights, they may still be given up.
        uri = uri or self.uri
        source, _ = resolve_checkpoint(self.config, self.store, CACHE_FOLDER, uri)
        settings = self.config.serve
        model = load_model(source, sampling_device(settings.gpus_per_worker, deterministic=settings.deterministic))
        versions = training_data_versions(self.store, uri)
        self._versions[model.key] = versions
        # A model with an adapter has a key of its own, but was trained on the same data.
        for folder in self._folders().values():
            self._versions[lora_key(model.key, folder)] = versions
        self._mode = describe_mode(settings.batch_size, deterministic=settings.deterministic)
        return model

    def adapters(self, model: LatentDiffusionModel) -> dict[str, Path]:
        """Return the folders of LoRA adapters by name: all for the default model, else those that fit the model."""
        from emoji_ldm.generate.pipeline_loader import with_lora

        folders = self._folders()
        # An adapter that does not fit the default model is a mistake in the configuration, which the batcher reports by
        # failing to start. Other models may have another architecture, so there it is only left out.
        if self.served.name == self.config.run:
            return folders
        fitting = {}
        for name, folder in folders.items():
            try:
                # Tried by loading it, since only the shapes of both tell whether an adapter fits; the result is thrown
                # away.
                with_lora(model, folder)
            except ModelError as error:
                LOG.warning("model %s does without serve.loras.%s: %s", self.served.name, name, error)
            else:
                fitting[name] = folder
        return fitting

    def add_adapters(
        self, model: LatentDiffusionModel, mix: Sequence[AdapterWeight], registered: Mapping[str, str]
    ) -> LatentDiffusionModel:
        """Return a model with adapters added: configured ones, or those at URIs by name; ModelError if that fails."""
        from emoji_ldm.generate.pipeline_loader import with_lora

        versions, folders = self._versions[model.key], self._folders() if mix else {}
        for part in mix:
            if part.name in registered:
                folder = adapter_folder(self.store, CACHE_FOLDER, part.name, registered[part.name])
            elif part.name in folders:
                folder = folders[part.name]
            else:
                raise ModelError(f"there is no adapter {part.name!r}")
            model = with_lora(model, folder, part.weight)
        # An adapted model has a key of its own, but was trained on the same data.
        self._versions[model.key] = versions
        return model

    def _folders(self) -> dict[str, Path]:
        return {name: adapter_folder(self.store, CACHE_FOLDER, f"serve.loras.{name}", value)
                for name, value in self.config.serve.loras.items()}  # fmt: skip

    def encode_png(self, image: RgbaImage, request: GenerationRequest, model: LatentDiffusionModel) -> bytes:
        """Return a PNG whose text chunks say how it was drawn, and with which weights."""
        from emoji_ldm.generate.png_metadata import provenance, to_png

        return to_png(image, request, provenance(model, request, self._mode, self._versions[model.key]))
