"""The three threads of a batcher: one encodes requests, one advances rows, one decodes latents into PNG files.

    BatcherState.admit -> bucket.waiting -> [encode] -> bucket.ready -> [step] -> decode_queues -> [decode] -> future

Separate threads keep the device busy: text encoding and PNG compression run on the CPU while the U-Net runs. An error
in one image fails that image alone, with its reason. An error anywhere else stops the batcher and fails everything that
is pending, so that the service restarts the replica.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import torch
from torch import Tensor

from emoji_ldm.errors import ModelError
from emoji_ldm.generate.continuous_batching.admission_control import DeadlineExceeded
from emoji_ldm.generate.continuous_batching.batch_bucket import BatchBucket, PendingImage
from emoji_ldm.generate.continuous_batching.batcher_state import BatcherState, DecodeItem
from emoji_ldm.generate.encode_decode import EncoderDecoder, RgbaImage
from emoji_ldm.generate.pipeline_loader import LatentDiffusionModel
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.generate.unet_runner import begin_drawing

ImageEncoder = Callable[[RgbaImage, GenerationRequest, LatentDiffusionModel], bytes]
ENCODE_TIME_SMOOTHING = 0.1  # weight of a new measurement
# A shape whose ticks lack memory again and again is offered once more after this time: what took it may be gone.
OUT_OF_MEMORY_PAUSE_S = 60.0
JOIN_TIMEOUT_S = 10.0  # time that a thread has to end its current work


class WorkerThreads:
    """Runs the stages of a batcher until its state is stopped."""

    def __init__(
        self, state: BatcherState, encode_image: ImageEncoder, *, max_prompts: int, device: torch.device
    ) -> None:
        """Start the threads.

        Args:
            state: The shared state.
            encode_image: Makes the PNG file of an image or preview; runs in the decode thread.
            max_prompts: The largest number of images whose prompts are encoded as one batch.
            device: Where the model draws.
        """
        self.state, self._encode_image, self._max_prompts = state, encode_image, max_prompts
        self._device = device
        stages = {"encode": self._encode, "step": self._step, "decode": self._decode_and_encode}
        # Daemon threads: a thread that hangs inside a kernel must not keep the process from ending.
        self._threads = [threading.Thread(target=self._run, args=(stage,), name=name, daemon=True)
                         for name, stage in stages.items()]  # fmt: skip
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait for the threads, which end soon after `BatcherState.stop`."""
        for thread in self._threads:
            thread.join(JOIN_TIMEOUT_S)

    def _run(self, stage: Callable[[], None]) -> None:
        # Deterministic pixels depend on this call, and it has to come before the first computation of the thread.
        begin_drawing(self._device)
        try:
            # Each stage does one unit of work per call, so the flag is seen soon after it is set.
            while not self.state.stopped:
                stage()
        except BaseException as error:  # noqa: BLE001 (reported to every waiting caller, and by `check`)
            self.state.stop(error)

    @contextmanager
    def _watched(self, expected_s: float = 0.0) -> Iterator[None]:
        """Context of work that must end in time; the health check reports a hang if it does not.

        An exception does not clear the deadline: it ends the thread, which the health check reports anyway.
        """
        name = threading.current_thread().name
        self.state.watch_thread(name, expected_s)
        yield
        self.state.thread_deadlines[name] = None

    # The encode thread.

    def _encode(self) -> None:
        state = self.state
        with state.changed:
            state.changed.wait_for(lambda: state.stopped or state.scheduler.has_work_to_prepare)
            # More than one only in fast mode, where prompts may share a batch.
            images = state.scheduler.next_to_prepare(self._max_prompts)
        with self._watched():
            if len(images) > 1:
                # A prompt that cannot be encoded fails again below, where it fails only its own image.
                with suppress(Exception):
                    images[0].bucket.model.encoder_decoder.encode_prompts([pending.request for pending in images])
            for pending in images:
                self._encode_one(pending)

    def _encode_one(self, pending: PendingImage) -> None:
        state, bucket = self.state, pending.bucket
        try:
            encode = bucket.model.encoder_decoder.encode
            pending.mark("taken")
            row = None if pending.ended else encode(pending.request, pending.num_previews)
        except Exception as error:  # noqa: BLE001 (the image fails alone, with the reason)
            row = None
            state.fail(pending, error)
        with state.changed:
            # The image may have been cancelled while it was being encoded, so `ended` is tested again under the lock.
            bucket.preparing[pending.bulk] -= 1
            if row is not None and not pending.ended:
                pending.row = row
                pending.mark("ready")
                bucket.ready[pending.bulk].append(pending)
            state.changed.notify_all()

    # The step thread.

    def _step(self) -> None:
        state = self.state
        with state.changed:
            # No wait_for with a predicate here: the thread also has to wake up when the next deadline passes without
            # any change.
            if not (state.stopped or state.can_step):
                state.changed.wait(state.next_deadline_in_s())
            # Late rows leave before the batch is chosen, so that they take nobody's slot.
            late = [*state.take_expired(), *state.take_unmeetable()]
            state.scheduler.drop_finished()
            has_batch = state.can_step and not state.stopped
            batch = state.scheduler.next_batch(state.runnable_classes) if has_batch else None
            # Rows that were dropped or started have made room among the ready ones. The encode thread looked before
            # that, when their callers left, and nothing else would tell it: an idle replica would stand still.
            if state.scheduler.has_work_to_prepare:
                state.changed.notify_all()
        # Outside the lock, as callbacks of the future may call back into the batcher.
        for pending in late:
            state.fail(pending, DeadlineExceeded("the image was not ready in time"), "expired")
        if batch is not None:
            with self._watched(batch[0].full_tick_s):
                self._tick(*batch)

    def _tick(self, bucket: BatchBucket, images: list[PendingImage]) -> None:
        state, engine = self.state, bucket.model.engine
        # A cancelled row may still be part of this tick. Its result is dropped later, as `ended` images are not
        # decoded.
        rows = {pending.row: pending for pending in images if pending.row is not None}
        for pending in images:
            pending.mark("started")
        try:
            previews = engine.tick(list(rows))
        except torch.OutOfMemoryError:
            self._handle_out_of_memory(bucket, images)
            return
        with state.changed:
            bucket.shape_profile.num_out_of_memory = 0
            # On a GPU these are earlier ticks; each names its own shape and size.
            for timed in engine.timer.take():
                bucket.model.shape_profile(timed.shape).profile.update(timed.cost, timed.seconds)
                state.counters.tick(timed.num_rows, timed.seconds)
            for row, latents in previews:
                self._queue_for_decode(rows[row], latents, rows[row].num_previews_sent)
                rows[row].num_previews_sent += 1
            for row, pending in rows.items():
                if pending.timeline is not None:
                    pending.timeline.add_step(row.index, pending.steps, len(rows))
                # `steps_left` is known as soon as the step is queued on a GPU; decoding waits for the latents on the
                # device by itself.
                if not row.steps_left:
                    bucket.running[pending.bulk].remove(pending)
                    pending.mark("denoised")
                    self._queue_for_decode(pending, row.x, None)

    def _handle_out_of_memory(self, bucket: BatchBucket, images: list[PendingImage]) -> None:
        """Fail the images of this tick, and make the next ones of this shape smaller, or refuse them for a while.

        Other shapes and waiting images go on: one oversized batch must not stop the service. In the fast mode half of
        the images need about half of the memory. In the deterministic mode every tick is padded to one size, so fewer
        images would need no less, and another size would give other pixels: the shape is refused if it fails again.
        """
        # The rows of this tick fail, since their state is undefined. Freeing it makes room for the next tick.
        bucket.model.engine.evict(bucket.shape)
        if bucket.model.engine.model.device.type == "cuda":
            # Blocks of other sizes that PyTorch keeps for later may be what the next tick lacks.
            torch.cuda.empty_cache()
        profile = bucket.shape_profile
        with self.state.changed:
            profile.num_out_of_memory += 1
            if not bucket.model.engine.unet.deterministic:
                profile.max_batch = max(1, bucket.max_batch // 2)
            elif profile.num_out_of_memory > 1:
                profile.refused_until = time.monotonic() + OUT_OF_MEMORY_PAUSE_S
        reason = (
            f"{len(images)} images of {bucket.sides} latents need more memory than the device has; lower batch_size"
        )
        for pending in images:
            self.state.fail(pending, ModelError(reason))

    def _queue_for_decode(self, pending: PendingImage, latents: Tensor, preview: int | None) -> None:
        self.state.decode_queues[pending.bulk].append(DecodeItem(pending, latents, preview))
        self.state.changed.notify_all()

    # The decode thread.

    def _decode_and_encode(self) -> None:
        state = self.state
        with state.changed:
            state.changed.wait_for(lambda: state.stopped or any(state.decode_queues))
            batch = self._next_decode_batch()
        with self._watched(len(batch) * state.encode_s):
            # Images may have been cancelled while their latents waited, and decoding them would delay the others.
            items, started = [item for item in batch if not item.pending.ended], time.monotonic()
            _mark_images(items, "decoding")
            images = self._decode(items)
            _mark_images(items, "decoded")
            for item, image in zip(items, images, strict=True):
                self._deliver(item, image)
            if items:
                seconds = (time.monotonic() - started) / len(items)
                state.encode_s += ENCODE_TIME_SMOOTHING * (seconds - state.encode_s)

    def _next_decode_batch(self) -> list[DecodeItem]:
        """Take what is decoded next as one batch: latents of one bucket, interactive images first."""
        queue = next((queue for queue in self.state.decode_queues if queue), None)
        if queue is None:
            return []
        # Only neighbours in the queue are batched: searching further would let a popular shape overtake the others.
        batch = [queue.popleft()]
        bucket = batch[0].pending.bucket
        max_images = bucket.model.encoder_decoder.max_decode_batch(bucket.shape)
        while queue and queue[0].pending.bucket is bucket and len(batch) < max_images:
            batch.append(queue.popleft())
        self.state.changed.notify_all()
        return batch

    def _decode(self, items: Sequence[DecodeItem]) -> list[RgbaImage | Exception]:
        """An image per item, or the reason why there is none."""
        if not items:
            return []
        encoder_decoder: EncoderDecoder = items[0].pending.bucket.model.encoder_decoder
        try:
            return list(encoder_decoder.decode([item.latents for item in items]))
        except Exception as error:  # noqa: BLE001 (decoded one by one below, so that only the culprit fails)
            if len(items) == 1:
                return [error]
            return [image for item in items for image in self._decode([item])]

    def _deliver(self, item: DecodeItem, image: RgbaImage | Exception) -> None:
        """Encode an image as PNG and resolve its future, or pass a preview to its callback."""
        pending, state = item.pending, self.state
        try:
            if isinstance(image, Exception):
                raise image
            png = self._encode_image(image, pending.request, pending.bucket.model.encoder_decoder.model)
            if item.preview is not None and pending.on_preview is not None:
                pending.on_preview(item.preview, png)
        except Exception as error:  # noqa: BLE001 (the image fails alone, with the reason)
            state.fail(pending, error)
            return
        if item.preview is None and state.finish(pending, "drawn"):
            pending.mark("drawn")
            pending.future.set_result(png)


def _mark_images(items: Sequence[DecodeItem], name: str) -> None:
    """Note a stage of images, which previews do not reach."""
    for item in items:
        if item.preview is None:
            item.pending.mark(name)
