"""Weights that share a replica with its own model: mixes of adapters, and checkpoints that were registered at run time.

A request names them (`model: "base+pixel:0.8"`, or a registered name). The first one that does waits until they are
loaded, while all others go on; then they have buckets of their own in the batcher, with a fair share of its time. Of
those that are not pinned, the ones asked for longest ago are forgotten (LRU) beyond `serve.max_loaded`: their memory is
free once their last image is drawn.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING

from emoji_ldm.errors import ConfigError, ModelError, StoreError
from emoji_ldm.generate.adapter_mix import parse_mix
from emoji_ldm.serve.backend import Overloaded
from emoji_ldm.serve.model_catalog import Entries, ModelCatalog
from ray_jobs.serving.model_registry import ModelLoader

if TYPE_CHECKING:  # only replicas import torch
    from emoji_ldm.generate.continuous_batching.batcher import ContinuousBatcher
    from emoji_ldm.generate.pipeline_loader import LatentDiffusionModel

LOG = logging.getLogger("ray.serve")
CATALOG_S = 5.0  # between looks at the catalog, which is also how long a new name may be unknown here
RETRY_S = 5.0
MAX_SWAPS = 3  # of the replica's own model, while one mix with it is loaded


class ModelVariants:
    """Loads and forgets the variants of one replica. All methods run in its event loop, loading in threads."""

    def __init__(
        self,
        batcher: ContinuousBatcher,
        loader: ModelLoader,
        catalog: ModelCatalog,
        max_loaded: int,
        *,
        holds_pinned: bool = True,
    ) -> None:
        """Keep up to `max_loaded` variants that are not pinned, and with `holds_pinned` all that are."""
        self.batcher, self.loader, self.catalog = batcher, loader, catalog
        self.max_loaded, self.holds_pinned = max_loaded, holds_pinned
        self.entries: Entries = {}
        # Loaded variants, the one asked for longest ago first: {name: (registered checkpoint, mix)}.
        self._used = OrderedDict[str, tuple[str, str]]()
        self._broken = set[str]()  # pinned ones that cannot be loaded, until their entry changes
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._slot = asyncio.Semaphore(1)  # one at a time: each takes the memory of a model while it is made

    async def use(self, model: str, lora: str) -> str:
        """Return what the batcher calls a model with a mix of adapters; loads it if need be.

        Args:
            model: A registered checkpoint, or empty for the replica's own model.
            lora: The mix, or empty.

        Raises:
            ConfigError: There are no such weights, or they do not fit.
            Overloaded: Other weights are being put into use all the time.
        """
        name = f"{model}+{lora}" if model and lora else model or lora
        if not self._is_ready(name):
            # Shielded: a caller who leaves must not end the load that others wait for.
            await asyncio.shield(self._loading.get(name) or self._start_load(name, model, lora))
        # Nothing can be forgotten between here and the caller's `submit`, since both run in this event loop.
        if not self.batcher.has_variant(name):
            raise Overloaded(RETRY_S)
        self._used.move_to_end(name)
        return name

    async def follow_catalog(self) -> None:
        """Read the catalog every `CATALOG_S`, forget what was removed, and load what is pinned; never returns."""
        while True:
            try:
                self._apply(await asyncio.to_thread(self.catalog.read))
            except Exception as error:  # noqa: BLE001 - the store may be away for a while; what is loaded stays
                LOG.warning("the registered models cannot be read: %s", error)
            await asyncio.sleep(CATALOG_S)

    def _apply(self, entries: Entries) -> None:
        changed = {name for name, entry in self.entries.items() if entries.get(name) != entry}
        self.entries = entries
        self._broken -= changed
        for name, (model, lora) in list(self._used.items()):
            if changed & {model, *(part.name for part in parse_mix(lora))}:
                self._forget(name)
        for name, entry in entries.items() if self.holds_pinned else ():
            if entry.pinned and not self._is_ready(name) and name not in {*self._loading, *self._broken}:
                own, lora = (name, "") if entry.kind == "checkpoint" else ("", name)
                self._start_load(name, own, lora)

    def _start_load(self, name: str, model: str, lora: str) -> asyncio.Task[None]:
        task = self._loading[name] = asyncio.create_task(self._load(name, model, lora))
        # Whoever waits gets the error; without anybody, asyncio would log it a second time.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    def _is_ready(self, name: str) -> bool:
        # After a swap of the replica's own weights the batcher has no variant any more.
        return self.batcher.has_variant(name) and name not in self._loading

    async def _load(self, name: str, model: str, lora: str) -> None:
        try:
            # It may have been registered a moment ago, by another process.
            self._apply(await asyncio.to_thread(self.catalog.read))
            async with self._slot:
                for _ in range(MAX_SWAPS):
                    base = None if model else self.batcher.model
                    made = await asyncio.to_thread(self._make, model, lora)
                    if await asyncio.to_thread(self.batcher.add_variant, name, made, base):
                        break
            self._used[name] = model, lora
            self._used.move_to_end(name)
            self._forget_oldest()
            LOG.info("model %s: loaded %s", self.loader.served.name, name)
        except StoreError as error:  # it will be back, so the model is not broken
            LOG.warning("model %s cannot load %s for now: %s", self.loader.served.name, name, error)
            raise Overloaded(RETRY_S) from None
        except ModelError as error:
            self._broken.add(name)
            LOG.warning("model %s cannot load %s: %s", self.loader.served.name, name, error)
            raise ConfigError(f"{name!r} cannot be used: its weights are missing or do not fit the model") from None
        finally:
            del self._loading[name]

    def _make(self, model: str, lora: str) -> LatentDiffusionModel:
        """Load a checkpoint, or take the replica's own model, and add a mix of adapters; raises ModelError."""
        from emoji_ldm.generate.unet_runner import apply_num_threads

        # As in all threads that compute weights: sums must not depend on the number of cores.
        apply_num_threads()
        if model:
            if model not in self.entries or self.entries[model].kind != "checkpoint":
                raise ModelError(f"there is no registered model {model!r}")
            made = self.loader.load(self.entries[model].uri)
        else:
            made = self.batcher.model
        adapters = {name: entry.uri for name, entry in self.entries.items() if entry.kind == "adapter"}
        return self.loader.add_adapters(made, parse_mix(lora), adapters)

    def _forget_oldest(self) -> None:
        free = [name for name in self._used if name not in self.entries or not self.entries[name].pinned]
        for name in free[: max(0, len(free) - self.max_loaded)]:
            self._forget(name)

    def _forget(self, name: str) -> None:
        self._used.pop(name, None)
        self.batcher.remove_variant(name)
        LOG.info("model %s: forgot %s", self.loader.served.name, name)
