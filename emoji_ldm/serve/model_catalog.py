"""Models that join a running service: a file in the store names them, and every process of the service reads it.

    <store>/serve/models.json   {"<name>": {"kind", "uri", "pinned", "created_at", "limits"}}

A checkpoint becomes a model of its own; an adapter can be mixed into every model that it fits (`adapter_mix`). Both run
in the replicas of the default model, which load them when a request names them and forget those that were not asked for
longest (`ray_jobs.serving.model_variants`); what is pinned is loaded at once and stays.

Only what lies in the store can be registered: whoever may register models shall not read the machine's files, or make
it load from elsewhere.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from emoji_ldm.config import Config
from emoji_ldm.config.serve import ServeConfig
from emoji_ldm.dataset.checkpoints import MANIFEST_FILE
from emoji_ldm.errors import ConfigError, ModelError, StoreError
from emoji_ldm.generate.checkpoint_resolver import (
    ALIAS_PREFIX,
    CACHE_FOLDER,
    ModelLimits,
    adapter_folder,
    read_model_limits,
    resolve_checkpoint,
    resolve_reference,
)
from emoji_ldm.latents.pipeline_source import MODEL_INDEX
from emoji_ldm.serve.backend import RequestLimits
from emoji_ldm.serve.shared_file import change_file, read_file
from emoji_ldm.store import Store

ModelKind = Literal["checkpoint", "adapter"]
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")  # as names in the configuration; + and : separate adapters
# Neither a local file system nor S3 could hold longer ones, and asking them is an error of its own.
MAX_PATH, MAX_NAME_BYTES = 700, 255
MAX_MODELS = 200  # every process holds the whole list


@dataclass(frozen=True)
class RegisteredModel:
    """One entry; the field names are those of the file."""

    kind: ModelKind
    uri: str  # in the store; the file alone has it, responses do not
    pinned: bool = False
    created_at: int = 0  # Unix time
    limits: Mapping[str, Any] | None = None  # of a checkpoint: the fields of RequestLimits

    def request_limits(self, adapters: tuple[str, ...]) -> RequestLimits:
        """Return what requests may ask of a checkpoint, with these adapters."""
        values = dict(self.limits or {})
        return RequestLimits(**{**values, "schedulers": tuple(values["schedulers"]), "loras": adapters})


Entries = Mapping[str, RegisteredModel]


class ModelCatalog:
    """The registered models of a store; without state, so any number of processes may use one."""

    def __init__(self, config: Config) -> None:
        """Use the store of a configuration."""
        self.config, self.store = config, Store(config.store)
        self.uri = f"{self.store.uri}/serve/models.json"

    def read(self) -> Entries:
        """Return all entries by name; raises StoreError."""
        return _parse(read_file(self.uri))

    def register(self, name: str, kind: ModelKind, source: str, *, pinned: bool = False) -> RegisteredModel:
        """Add or replace an entry; returns it once it is stored.

        Args:
            name: What requests call it.
            kind: What it is.
            source: A path in the store or, of a checkpoint, alias:NAME, which is resolved now.
            pinned: Whether replicas load it at once and keep it.

        Raises:
            ConfigError: The name is refused, or there are too many.
            ModelError: There is no such model in the store.
            StoreError: The store cannot be read or written.
        """
        if not NAME.fullmatch(name) or name in self._configured():
            raise ConfigError(f"name {name[:100]!r} is refused: lower-case letters, digits, . _ and -, at most 63, and "
                              "none of the configuration's")  # fmt: skip
        entry = replace(self._checked(name, kind, source), pinned=pinned, created_at=int(time.time()))

        def added(data: bytes | None) -> bytes:
            entries = {**_parse(data), name: entry}
            if len(entries) > MAX_MODELS:
                raise ConfigError(f"there are {MAX_MODELS} registered models; delete one first")
            return _format(entries)

        change_file(self.uri, added)
        return _parse(_format({name: entry}))[name]  # as whoever reads it gets it

    def remove(self, name: str) -> bool:
        """Delete an entry, not its files; returns whether there was one."""
        removed = False

        def without(data: bytes | None) -> bytes | None:
            nonlocal removed
            entries = dict(_parse(data))
            removed = entries.pop(name, None) is not None
            return _format(entries) if removed else None

        change_file(self.uri, without)
        return removed

    def _configured(self) -> set[str]:
        return {self.config.run, *self.config.serve.models, *self.config.serve.loras}

    def _checked(self, name: str, kind: ModelKind, source: str) -> RegisteredModel:
        """Return the entry of a source that exists; reading a checkpoint's limits takes seconds for large weights."""
        if kind == "adapter":
            path = self._path(source)
            adapter_folder(self.store, CACHE_FOLDER, "adapter", f"{self.store.uri}/{path}")
            return RegisteredModel("adapter", f"{self.store.uri}/{path}")
        if source.startswith(ALIAS_PREFIX):
            uri = resolve_reference(self.config, self.store, source).uri
        else:
            path = self._path(source)
            if not any(self.store.exists(path, file) for file in (MANIFEST_FILE, MODEL_INDEX)):
                raise ModelError(f"checkpoint={source[:200]!r}: the store has no checkpoint or pipeline there")
            uri = f"{self.store.uri}/{path}"
        folder, uri = resolve_checkpoint(self.config, self.store, CACHE_FOLDER, uri)
        limits = asdict(limits_of(name, read_model_limits(folder), self.config.serve))
        return RegisteredModel("checkpoint", uri, limits=limits)

    def _path(self, source: str) -> str:
        path = source.removeprefix(self.store.uri).strip("/")
        # A folder's `..` would lead out of the store; S3 has no such thing.
        parts = path.split("/")
        is_too_long = any(len(part.encode(errors="surrogatepass")) > MAX_NAME_BYTES for part in parts)
        if not path or len(path) > MAX_PATH or is_too_long or "://" in path or ".." in parts or "\0" in path:
            raise ModelError(f"{source[:200]!r} is no path in the store of the service")
        return path


def limits_of(name: str, limits: ModelLimits, settings: ServeConfig) -> RequestLimits:
    """Return what requests may ask for: what the weights can draw, within the bounds of the configuration."""
    # A distilled model may allow fewer steps than the service does.
    most = min(settings.max_steps, limits.max_steps)
    return RequestLimits(name, max_images=settings.max_images, **{**asdict(limits), "max_steps": most})


def with_registered(served: Mapping[str, RequestLimits], entries: Entries) -> dict[str, RequestLimits]:
    """Return the limits of all models that requests may name: those that are served always, then registered ones."""
    adapters = tuple(name for name, entry in entries.items() if entry.kind == "adapter")
    if not entries:
        return dict(served)
    known = {name: replace(limits, loras=(*limits.loras, *adapters)) for name, limits in served.items()}
    configured = next(iter(served.values())).loras
    return known | {name: entry.request_limits((*configured, *adapters)) for name, entry in entries.items()
                    if entry.kind == "checkpoint" and name not in served}  # fmt: skip


def _parse(data: bytes | None) -> dict[str, RegisteredModel]:
    try:
        return {name: RegisteredModel(**values) for name, values in json.loads(data or b"{}").items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise StoreError(f"the list of registered models, serve/models.json, is damaged: {error}") from None


def _format(entries: Mapping[str, RegisteredModel]) -> bytes:
    return json.dumps({name: asdict(entry) for name, entry in entries.items()}, indent=1).encode()
