"""The continuous batcher: images of many callers generated together, see the package's text; and its statistics."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.checkpoint_resolver import ModelLimits
from emoji_ldm.generate.continuous_batching.admission_control import predict_drain_s
from emoji_ldm.generate.continuous_batching.batch_bucket import BatchBucket, PendingImage, PreviewCallback
from emoji_ldm.generate.continuous_batching.batch_scheduler import PRIORITY_CLASSES
from emoji_ldm.generate.continuous_batching.batcher_state import BatcherCounters, BatcherState
from emoji_ldm.generate.continuous_batching.image_timeline import ImageTimeline
from emoji_ldm.generate.continuous_batching.worker_threads import ImageEncoder, WorkerThreads
from emoji_ldm.generate.pipeline_loader import LatentDiffusionModel
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.generate.unet_runner import begin_drawing
from emoji_ldm.generate.warmup import LoadedModel, warm_up, warm_up_with_adapters

ResultT = TypeVar("ResultT")

FINAL_STATES = ("drawn", "cancelled", "expired", "failed")  # also names of exported metrics


@dataclass(frozen=True)
class BatcherStats:
    """Counters since the start, and gauges. Mappings by class have the keys of PRIORITY_CLASSES."""

    queued: Mapping[str, int]  # images that wait, encoded or not
    running: Mapping[str, int]  # rows in the batch
    finishing: int  # images and previews that wait for decoding
    row_steps: Mapping[str, int]  # steps left of all images that wait or run
    oldest_s: Mapping[str, float]  # age of the image that waits longest
    rows_per_forward: Mapping[int, int]  # ticks by their number of images
    tick_s: Mapping[int, float]  # seconds in ticks by their number of images
    row_steps_per_s: float  # of a full tick, as measured recently
    max_batch: int  # images of a full tick
    encode_s: float  # seconds to decode an image and encode it as PNG, as measured recently
    drain_s: float  # predicted time until everything that is pending now is done
    drawn: int
    cancelled: int
    refused: int
    expired: int
    failed: int


class ContinuousBatcher:
    """Generates images with one model and its adapters; thread-safe."""

    def __init__(
        self, model: LatentDiffusionModel, *, batch_size: int, deterministic: bool, max_queued: int,
        encode_image: ImageEncoder, loras: Mapping[str, Path] | None = None,
    ) -> None:  # fmt: skip
        """Warm the model up, then start the threads.

        Args:
            model: The model, until `swap_model` replaces it.
            batch_size: The largest number of images per tick.
            deterministic: Same seed, same pixels in any company; otherwise batch shapes follow the load.
            max_queued: The largest number of waiting images per class.
            encode_image: Makes a PNG file of an image or preview; runs in the decode thread.
            loras: Folders of adapters by the names that requests use.

        Raises:
            ModelError: An adapter is missing, or is for another network.
        """
        self.batch_size, self.deterministic, self.max_queued = batch_size, deterministic, max_queued
        self._device = model.device
        self._models = self._drawing(warm_up_with_adapters, model, loras or {}, batch_size, deterministic=deterministic)
        self._variants: Mapping[str, LoadedModel] = {}  # replaced as a whole, so readers need no lock
        self._swapping = threading.Lock()  # of writers of the two mappings
        self._state = BatcherState(batch_size)
        # In deterministic mode prompts are encoded one by one, so taking several images at once would gain nothing.
        self._workers = WorkerThreads(self._state, encode_image, max_prompts=1 if deterministic else batch_size,
                                      device=self._device)  # fmt: skip

    def submit(  # noqa: PLR0913 - each is a property of the request
        self, request: GenerationRequest, *, tenant: str = "", bulk: bool = False, timeout_s: float = math.inf,
        on_preview: PreviewCallback | None = None, num_previews: int = 0, variant: str | None = None,
        timeline: ImageTimeline | None = None,
    ) -> PendingImage:  # fmt: skip
        """Request an image.

        Args:
            request: What to generate.
            tenant: Who asks; the queue is fair between tenants.
            bulk: Whether interactive images go first.
            timeout_s: Time after which the image is dropped.
            on_preview: Called with each preview, in the decode thread.
            num_previews: The largest number of previews.
            variant: Name of weights that `add_variant` added; None takes the model with the request's adapter.
            timeline: Gets the moments at which the image goes from stage to stage.

        Returns:
            The pending image. Its future yields PNG bytes, or raises ConfigError, DeadlineExceeded or BatcherClosed.

        Raises:
            QueueFull: Too many images wait, or this one would not be ready in time.
            DeadlineExceeded: It would not be ready in time even without any other image.
            ConfigError: The model does not support the request.
            BatcherClosed: No images are generated any more.
        """
        model = self._model_for(request.lora if variant is None else variant)
        # Checked in the caller's thread, so that a bad request is refused at once and never takes a place in the queue.
        model.encoder_decoder.check(request)
        shape, steps = model.encoder_decoder.shape(request), len(model.encoder_decoder.schedule(request))
        # One lock for both steps: between them the scheduler might drop the bucket, which is empty until the image is
        # in it.
        with self._state.changed:
            bucket = self._state.scheduler.bucket(model, shape)
            self._refuse_without_memory(bucket)
            deadline = time.monotonic() + timeout_s
            pending = PendingImage(request, bucket, steps, tenant, bulk, deadline, on_preview, num_previews, timeline)
            self._state.admit(pending, self.max_queued)
        return pending

    def place(self, pending: PendingImage) -> tuple[int, float]:
        """The image's place among those that wait (0: it is being drawn), and predicted seconds until it is ready."""
        left_s = pending.predicted_s - (time.monotonic() - pending.submitted_at)
        return self._state.place(pending), max(0.0, left_s)

    def swap_model(self, model: LatentDiffusionModel, loras: Mapping[str, Path] | None = None) -> None:
        """Use other weights for requests from now on; images that were requested before keep the old ones.

        Raises:
            ModelError: An adapter is missing, or is for another network; the old weights stay in use.
        """
        # The new models are complete before the one assignment that puts them into use, so readers of `_models` need no
        # lock. Meanwhile the old weights go on serving.
        models = self._drawing(
            warm_up_with_adapters, model, loras or {}, self.batch_size, deterministic=self.deterministic,
            like=self._models[""],
        )  # fmt: skip
        with self._swapping:
            # Variants may be mixes with the old weights.
            self._models, self._variants = models, {}

    @property
    def model(self) -> LatentDiffusionModel:
        """The model in use, without an adapter."""
        return self._models[""].encoder_decoder.model

    def has_variant(self, name: str) -> bool:
        """Whether requests may name these weights."""
        return name in self._models or name in self._variants

    def add_variant(self, name: str, model: LatentDiffusionModel, base: LatentDiffusionModel | None = None) -> bool:
        """Warm other weights up, which then share the batcher under a name until they are removed.

        Args:
            name: What `submit` calls them.
            model: The weights.
            base: The model that they were made of, if it has to be the one in use.

        Returns:
            False if another model than `base` is in use meanwhile; nothing was added then.
        """
        loaded = self._drawing(warm_up, model, self.batch_size, deterministic=self.deterministic, like=self._models[""])
        with self._swapping:
            if base is not None and base is not self.model:
                return False
            self._variants = {**self._variants, name: loaded}
            return True

    def remove_variant(self, name: str) -> None:
        """Take weights out of use; images that were requested before keep them, and the memory is free after those."""
        with self._swapping:
            self._variants = {key: model for key, model in self._variants.items() if key != name}

    def limits(self) -> ModelLimits:
        """The requests that are accepted."""
        # Read once: `swap_model` may replace the mapping at any time.
        models = self._models
        encoder_decoder = models[""].encoder_decoder
        return ModelLimits(
            model_key=encoder_decoder.model.key,
            width_px=encoder_decoder.model.size_px,
            height_px=encoder_decoder.model.size_px,
            side_step_px=encoder_decoder.side_step_px,
            max_side_px=encoder_decoder.max_side_px,
            max_steps=encoder_decoder.schedules.max_steps,
            schedulers=encoder_decoder.schedules.schedulers,
            loras=tuple(name for name in models if name),
        )

    def stats(self) -> BatcherStats:
        """Counters since the start, and gauges of this moment."""
        state = self._state
        with state.changed:
            finishing = sum(map(len, state.decode_queues))
            return batcher_stats(state.counters, state.scheduler, self._models[""], finishing, state.encode_s)

    def check(self) -> None:
        """Raise RuntimeError if a thread died or a tick hangs. Fast, for health checks."""
        self._state.check()

    def close(self, drain_s: float = 0) -> None:
        """Accept no more requests, let pending images go on for up to `drain_s`, then fail the rest."""
        state = self._state
        with state.changed:
            # `closed` refuses new requests while the threads go on; `stopped`, which `stop` sets below, ends the
            # threads.
            state.closed = True
            state.changed.wait_for(lambda: not state.pending, drain_s)
        # Whatever is left is failed, then the threads end.
        state.stop()
        self._workers.join()

    def _drawing(self, warm_up: Callable[..., ResultT], *arguments: Any, **options: Any) -> ResultT:
        """Warm up in a thread like those that draw: the threads that an engine starts have its priority."""
        with ThreadPoolExecutor(1, "warm-up", initializer=begin_drawing, initargs=(self._device,)) as pool:
            return pool.submit(warm_up, *arguments, **options).result()

    def _refuse_without_memory(self, bucket: BatchBucket) -> None:
        if time.monotonic() < bucket.shape_profile.refused_until:
            raise ConfigError(f"images of {bucket.sides} latents need more memory than the device has; ask for smaller "
                              f"ones, or serve with a lower serve.batch_size than {self.batch_size}")  # fmt: skip

    def _model_for(self, lora: str) -> LoadedModel:
        models = {**self._variants, **self._models}
        # The base model has the name "", so a request without an adapter needs no case of its own.
        if lora not in models:
            names = ", ".join(name for name in self._models if name)
            raise ConfigError(f"lora={lora} is unknown; " + (f"choose {names}" if names else "there are none"))
        return models[lora]


def batcher_stats(
    counters: BatcherCounters, buckets: Iterable[BatchBucket], model: LoadedModel, finishing: int, encode_s: float
) -> BatcherStats:
    """The counters, and the gauges of the buckets as they are now; speeds are those of `model`."""
    buckets = list(buckets)
    shape = model.encoder_decoder.model.latent_shape
    # A full tick of guided images, each of which is two rows: the worst case, so an autoscaler does not
    # overestimate the speed.
    full_tick_s = model.profile.predict_s(model.engine.num_unet_rows(model.max_batch, model.max_batch, shape))
    # An image leaves the queue's list while it is being encoded but still waits for its caller, hence `preparing`.
    queued = _by_class(
        buckets, lambda bucket, bulk: sum(1 for _ in _waiting_images(bucket, bulk)) + bucket.preparing[bulk]
    )
    running = _by_class(buckets, lambda bucket, bulk: len(bucket.running[bulk]))
    num_to_encode = sum(queued.values()) + sum(running.values()) + finishing
    return BatcherStats(
        queued=queued,
        running=running,
        finishing=finishing,
        row_steps=_by_class(buckets, lambda bucket, bulk: bucket.waiting[bulk].total_steps + bucket.steps_left(bulk)),
        oldest_s=_oldest_s(buckets),
        rows_per_forward=dict(counters.ticks),
        tick_s=dict(counters.tick_s),
        row_steps_per_s=model.max_batch / full_tick_s,
        max_batch=model.max_batch,
        encode_s=encode_s,
        # Denoising and encoding run in parallel threads, so the slower of them decides, as in `admission_control`.
        drain_s=max(predict_drain_s(buckets), num_to_encode * encode_s),
        refused=counters.refused,
        **{name: counters.final_states[name] for name in FINAL_STATES},
    )


def _by_class(buckets: list[BatchBucket], count: Callable[[BatchBucket, bool], int]) -> dict[str, int]:
    # The position of a class's name in PRIORITY_CLASSES is its value of `bulk`.
    return {name: sum(count(bucket, bool(bulk)) for bucket in buckets) for bulk, name in enumerate(PRIORITY_CLASSES)}


def _waiting_images(bucket: BatchBucket, bulk: bool) -> Iterable[PendingImage]:
    return chain(bucket.waiting[bulk], bucket.ready[bulk])


def _oldest_s(buckets: list[BatchBucket]) -> dict[str, float]:
    now = time.monotonic()
    return {
        name: max(
            (now - pending.submitted_at for bucket in buckets for pending in _waiting_images(bucket, bool(bulk))),
            default=0.0,
        )
        for bulk, name in enumerate(PRIORITY_CLASSES)
    }
