"""A replica of a model: one Batcher, in which images of all requests share forward passes."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any, NoReturn

from emoji_ldm.config import Config
from emoji_ldm.errors import ConfigError, EmojiLdmError
from emoji_ldm.generate.continuous_batching.admission_control import DeadlineExceeded, QueueFull
from emoji_ldm.generate.continuous_batching.batcher_state import BatcherClosed
from emoji_ldm.serve.backend import ImageTask, Overloaded, PartialImage, RequestLimits, TaskTimeout
from ray_jobs.serving.autoscaling import DRAIN_S, UTILIZATION
from ray_jobs.serving.model_registry import ModelLoader, ServedModel, limits_of
from ray_jobs.serving.service_metrics import ReplicaMetrics

if TYPE_CHECKING:  # torch is for replicas only
    from emoji_ldm.generate.continuous_batching.batch_bucket import PendingImage
    from emoji_ldm.generate.continuous_batching.batcher_stats import BatcherStats

LOG = logging.getLogger("ray.serve")
METRICS_INTERVAL_S = 1.0
Refusal = Overloaded | TaskTimeout | ConfigError  # returned, not raised: Serve would log a stack trace for each


class ModelReplica:
    """Draws with one model. The work is done in the Batcher's threads: the event loop stays free to listen."""

    def __init__(self, config: Config, served: ServedModel) -> None:
        """Load the model and make it ready, so that the first request is as quick as the others."""
        from emoji_ldm.generate.continuous_batching.batcher import ContinuousBatcher

        settings = config.serve
        self.config, self.served, self.weights = config, served, ModelLoader(config, served)
        model = self.weights.load()
        self.batcher = ContinuousBatcher(
            model, batch_size=settings.batch_size, deterministic=settings.deterministic, max_queued=settings.max_queued,
            loras=self.weights.adapters(model), encode_image=self.weights.finish,
        )  # fmt: skip
        self.meters, self.busy = ReplicaMetrics(), Utilization()
        self.closing = threading.Event()
        self._every(METRICS_INTERVAL_S, self._measure)
        if settings.reload_s:
            self._every(settings.reload_s, self._reload)

    async def generate(self, wish: ImageTask) -> bytes | Refusal:
        """PNG bytes. The row of a caller who is gone is dropped, which no neighbour notices."""
        ticket = self._submit(wish)
        return ticket if isinstance(ticket, Exception) else await _picture(ticket)

    async def stream(self, wish: ImageTask, partials: int) -> AsyncGenerator[PartialImage | bytes | Refusal, None]:
        """Up to `partials` previews, then what `generate` gives."""
        seen: asyncio.Queue[PartialImage | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def show(index: int, png: bytes) -> None:
            loop.call_soon_threadsafe(seen.put_nowait, PartialImage(index, png))

        ticket = self._submit(wish, num_previews=partials, on_preview=show)
        if isinstance(ticket, Exception):
            yield ticket
            return
        picture = asyncio.create_task(_picture(ticket))
        picture.add_done_callback(lambda _: seen.put_nowait(None))
        try:
            while (partial := await seen.get()) is not None:
                yield partial
            yield await picture
        finally:
            picture.cancel()

    def limits(self) -> RequestLimits:
        """What may be asked for."""
        return limits_of(self.served.name, self.batcher.limits(), self.config.serve)

    def stats(self) -> BatcherStats:
        """What happens here."""
        return self.batcher.stats()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What `policy.py` decides by; Serve asks every few seconds."""
        stats = self.batcher.stats()
        return {DRAIN_S: stats.drain_s, UTILIZATION: self.busy.share(stats)}

    def check_health(self) -> None:
        """Raise if nothing is drawn any more; quick."""
        self.batcher.check()

    def __del__(self) -> None:
        """Called by Serve when the last request has been answered."""
        if hasattr(self, "closing"):
            self.closing.set()
            self.batcher.close()

    def _submit(self, wish: ImageTask, **options: Any) -> PendingImage | Refusal:

        try:
            return self.batcher.submit(
                wish.request, tenant=wish.tenant, bulk=wish.bulk, timeout_s=wish.timeout_s, **options
            )
        except QueueFull as full:
            return Overloaded(full.retry_after_s)
        except DeadlineExceeded:  # it would take longer than that even alone
            return TaskTimeout()
        except ConfigError as error:
            return error
        except BatcherClosed:
            _exit_process()

    def _measure(self) -> None:
        self.meters.update(self.batcher.stats())

    def _reload(self) -> None:
        """Take other weights if the checkpoint means others now; what was ordered before keeps the old ones."""
        try:
            if (uri := self.weights.newest()) != self.weights.uri:
                model = self.weights.load(uri)
                self.batcher.swap_model(model, self.weights.adapters(model))
                self.weights.uri = uri
                LOG.info("model %s: took the weights of %s", self.served.name, uri)
        except EmojiLdmError as error:
            LOG.warning("model %s keeps its weights: %s", self.served.name, error)

    def _every(self, seconds: float, act: Callable[[], None]) -> None:
        def repeat() -> None:
            while not self.closing.wait(seconds):
                try:
                    act()
                except Exception:  # a full disk, a GPU without room: told, and tried again
                    LOG.exception("%s failed; it is tried again in %.0f s", act.__name__, seconds)

        threading.Thread(target=repeat, name=act.__name__, daemon=True).start()


class Utilization:
    """How much of what a replica can do it did since it was last asked."""

    def __init__(self) -> None:
        """Begin now."""
        self._asked, self._steps_s, self._drawn = time.monotonic(), 0.0, 0

    def share(self, stats: BatcherStats) -> float:
        """0: nothing; 1: every forward pass was full, one after another, or packing went on all the time."""
        now = time.monotonic()
        steps_s = sum(seconds * rows / stats.max_batch for rows, seconds in stats.tick_s.items())
        done_s = max(steps_s - self._steps_s, (stats.drawn - self._drawn) * stats.encode_s)
        share = min(1.0, done_s / max(1e-3, now - self._asked))
        self._asked, self._steps_s, self._drawn = now, steps_s, stats.drawn
        return share


async def _picture(ticket: PendingImage) -> bytes | Refusal:
    """PNG bytes; leaving early drops the row."""
    try:
        return await asyncio.wrap_future(ticket.future)
    except DeadlineExceeded:
        return TaskTimeout()
    except ConfigError as error:
        return error
    except BatcherClosed:
        _exit_process()
    finally:
        ticket.cancel()


def _exit_process() -> NoReturn:
    """End this process at once: those who wait here are served elsewhere, and Serve starts another replica."""
    LOG.exception("nothing can be drawn here any more")
    os._exit(1)
