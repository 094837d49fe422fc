"""A replica of a model: one `ContinuousBatcher`, in which images of all requests share forward passes.

A replica is an actor of Ray Serve, called by `replica_router`. What it refuses it returns as a value: Serve would log a
stack trace for every raised exception. If its batcher dies, the process ends at once; Serve then starts another
replica, and the router repeats what was lost there.
"""

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
from emoji_ldm.serve import tracing
from emoji_ldm.serve.backend import (
    ImageTask,
    Message,
    OtherRelease,
    Overloaded,
    PartialImage,
    QueuePlace,
    RequestLimits,
    TaskTimeout,
    from_message,
)
from emoji_ldm.serve.model_catalog import ModelCatalog, limits_of
from ray_jobs.serving.autoscaling import DRAIN_S, UTILIZATION
from ray_jobs.serving.image_traces import submit_traced
from ray_jobs.serving.model_registry import ModelLoader, ServedModel
from ray_jobs.serving.model_variants import ModelVariants
from ray_jobs.serving.service_metrics import ReplicaMetrics

if TYPE_CHECKING:  # torch is for replicas only
    from emoji_ldm.generate.continuous_batching.batch_bucket import PendingImage
    from emoji_ldm.generate.continuous_batching.batcher import BatcherStats

LOG = logging.getLogger("ray.serve")
METRICS_INTERVAL_S = 1.0
PLACE_INTERVAL_S = 1.0  # between looks at the place of an image that waits
Refusal = Overloaded | TaskTimeout | ConfigError | OtherRelease


class ModelReplica:
    """Generates with one model. The batcher works in threads of its own, so the event loop stays responsive."""

    def __init__(self, config: Config, served: ServedModel) -> None:
        """Load the model and warm it up, so that the first request is as fast as later ones."""
        from emoji_ldm.generate.continuous_batching.batcher import ContinuousBatcher

        settings = config.serve
        self.config, self.served, self.loader = config, served, ModelLoader(config, served)
        # Everything slow happens in the constructor: Serve routes requests to a replica only once it has returned.
        model = self.loader.load_first()
        self.batcher = ContinuousBatcher(
            model, batch_size=settings.batch_size, deterministic=settings.deterministic, max_queued=settings.max_queued,
            loras=self.loader.adapters(model), encode_image=self.loader.encode_png,
        )  # fmt: skip
        # Registered models are drawn by the replicas of the default model, which has the run's name.
        self.variants = ModelVariants(
            self.batcher, self.loader, ModelCatalog(config), settings.max_loaded,
            holds_pinned=served.name == config.run,
        )  # fmt: skip
        self.is_traced = tracing.is_configured()
        self.own_adapters = ("", *settings.loras)  # loaded with the model
        # Serve constructs replicas in their event loop.
        self.catalog_task = asyncio.get_running_loop().create_task(self.variants.follow_catalog())
        # Metrics and reloads have threads of their own: loading a model would block the event loop for seconds.
        self.metrics, self.utilization = ReplicaMetrics(), Utilization()
        self.closing = threading.Event()
        self._repeat_every(METRICS_INTERVAL_S, self._measure)
        if settings.reload_s:
            self._repeat_every(settings.reload_s, self._reload)

    async def generate(self, task: Message) -> bytes | Refusal:
        """Return the PNG bytes of a task, or a refusal. If the caller disconnects, its row of the batch is freed."""
        pending = await self._submit(task)
        return pending if isinstance(pending, Exception) else await _png(pending)

    async def stream(
        self, task: Message, num_partials: int
    ) -> AsyncGenerator[QueuePlace | PartialImage | bytes | Refusal, None]:
        """Up to `num_partials` previews, and places in the queue if the task wants them, then the image or refusal."""
        previews: asyncio.Queue[PartialImage | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        # Called in a thread of the batcher. Queues of asyncio are not thread-safe, so the loop is asked to put it.
        def show(index: int, png: bytes) -> None:
            loop.call_soon_threadsafe(previews.put_nowait, PartialImage(index, png))

        pending = await self._submit(task, num_previews=num_partials, on_preview=show)
        if isinstance(pending, Exception):
            yield pending
            return
        # The image may be finished, or fail, before any preview: None ends the loop in every case.
        image = asyncio.create_task(_png(pending))
        image.add_done_callback(lambda _: previews.put_nowait(None))
        try:
            place = 0
            if task.get("tells_place"):
                place, eta_s = self.batcher.place(pending)
                yield QueuePlace(place, eta_s)
            async for item in self._until_drawn(pending, previews, place):
                yield item
            yield await image
        finally:
            # Also if the caller closes this generator early: the cancellation frees the row of the batch (`_png`).
            image.cancel()

    async def _until_drawn(
        self, pending: PendingImage, previews: asyncio.Queue[PartialImage | None], place: int
    ) -> AsyncGenerator[PartialImage | QueuePlace, None]:
        """Yield the previews, and the place whenever it has changed; one that is told as 0 is not looked at again."""
        while True:
            try:
                # Once it is being drawn, its place is no news any more.
                async with asyncio.timeout(PLACE_INTERVAL_S if place else None):
                    partial = await previews.get()
            except TimeoutError:
                now = QueuePlace(*self.batcher.place(pending))
                if now.place != place:
                    place = now.place
                    yield now
                continue
            if partial is None:
                return
            yield partial

    def limits(self) -> RequestLimits:
        """Return what requests may ask of the model that is loaded now."""
        return limits_of(self.served.name, self.batcher.limits(), self.config.serve)

    def stats(self) -> BatcherStats:
        """Return the counters and queues of the batcher, for benchmarks and tests."""
        return self.batcher.stats()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the input of `autoscaling.DrainTimePolicy`; Serve calls this every few seconds."""
        stats = self.batcher.stats()
        return {DRAIN_S: stats.drain_s, UTILIZATION: self.utilization.since_last_call(stats)}

    def check_health(self) -> None:
        """Raise if the batcher has stopped; Serve calls this every second."""
        self.batcher.check()

    def __del__(self) -> None:
        """Stop the batcher: Serve calls this once the last request has been answered."""
        # Absent if the constructor raised, for instance because the model could not be loaded.
        if hasattr(self, "closing"):
            self.closing.set()
            self.catalog_task.cancel()
            self.batcher.close()

    async def _submit(self, message: Message, **options: Any) -> PendingImage | Refusal:
        try:
            task, started_at = from_message(message), time.monotonic()
            if task.registered or task.request.lora not in self.own_adapters:
                options["variant"] = await self._variant(task)
            timeout_s = task.timeout_s - (time.monotonic() - started_at)
            # Every expected refusal becomes a value, see the module's docstring.
            if self.is_traced:
                return submit_traced(self.batcher, task, timeout_s=timeout_s, **options)
            return self.batcher.submit(task.request, tenant=task.tenant, bulk=task.bulk, timeout_s=timeout_s, **options)
        except QueueFull as full:
            return Overloaded(full.retry_after_s)
        except Overloaded as overloaded:
            return overloaded
        except TimeoutError:
            return TaskTimeout()
        except DeadlineExceeded:  # even alone in the batch it would take longer than its time
            return TaskTimeout()
        except (ConfigError, OtherRelease) as error:
            return error
        except BatcherClosed:
            _exit_process()

    async def _variant(self, task: ImageTask) -> str:
        """Return what the batcher calls a registered model or a mix of adapters, within the time of the task."""
        async with asyncio.timeout(task.timeout_s):
            return await self.variants.use(task.registered, task.request.lora)

    def _measure(self) -> None:
        self.metrics.update(self.batcher.stats())

    def _reload(self) -> None:
        """Load other weights if the checkpoint means others now; images accepted before keep the old ones."""
        try:
            if (uri := self.loader.current_uri()) != self.loader.uri:
                # Both models are in memory until the last image of the old one is drawn.
                model = self.loader.load(uri)
                self.batcher.swap_model(model, self.loader.adapters(model))
                # Last: if anything above raises, the next try still sees that other weights are wanted.
                self.loader.uri = uri
                LOG.info("model %s: uses the weights of %s now", self.served.name, uri)
        except EmojiLdmError as error:
            LOG.warning("model %s keeps its weights: %s", self.served.name, error)

    def _repeat_every(self, seconds: float, action: Callable[[], None]) -> None:
        def repeat() -> None:
            while not self.closing.wait(seconds):
                try:
                    action()
                except Exception:
                    # Such as a full disk or GPU, which may pass. A thread that ends would never try again.
                    LOG.exception("%s failed; next try in %.0f s", action.__name__, seconds)

        threading.Thread(target=repeat, name=action.__name__, daemon=True).start()


class Utilization:
    """The share of its capacity that a replica used since the last call."""

    def __init__(self) -> None:
        """Start measuring."""
        self._last_call, self._steps_s, self._drawn = time.monotonic(), 0.0, 0

    def since_last_call(self, stats: BatcherStats) -> float:
        """0 for idle; 1 if forward passes were full and back to back, or images were encoded all the time."""
        now = time.monotonic()
        # A forward pass with half of its rows used counts half: such a replica could take twice the images in the same
        # time.
        steps_s = sum(seconds * rows / stats.max_batch for rows, seconds in stats.tick_s.items())
        # Images are encoded in other threads while the next forward pass runs, so whichever of the two is busier is the
        # bottleneck.
        done_s = max(steps_s - self._steps_s, (stats.drawn - self._drawn) * stats.encode_s)
        share = min(1.0, done_s / max(1e-3, now - self._last_call))
        self._last_call, self._steps_s, self._drawn = now, steps_s, stats.drawn
        return share


async def _png(pending: PendingImage) -> bytes | Refusal:
    """Wait for the PNG bytes, or return a refusal; cancelling this frees the row of the batch."""
    try:
        return await asyncio.wrap_future(pending.future)
    except DeadlineExceeded:
        return TaskTimeout()
    except ConfigError as error:
        return error
    except BatcherClosed:
        _exit_process()
    finally:
        pending.cancel()


def _exit_process() -> NoReturn:
    """End this process at once: the router repeats its requests elsewhere, and Serve starts another replica."""
    LOG.exception("the batcher has stopped; this replica ends")
    # Not sys.exit: raised in a request, that would end only this call, and other threads could keep the process alive.
    os._exit(1)
