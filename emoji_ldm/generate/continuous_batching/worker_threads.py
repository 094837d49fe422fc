"""The three threads of a batcher: one prepares rows, one moves them, one packs what is done.

floor.enter -> lane.waiting -> prepare -> lane.ready -> move -> lane.running -> floor.made -> pack -> ticket.future
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
from emoji_ldm.generate.continuous_batching.batch_scheduler import BatchBucket, PendingImage
from emoji_ldm.generate.continuous_batching.batcher_state import BatcherState, DecodeItem
from emoji_ldm.generate.encode_decode import EncoderDecoder, RgbaImage
from emoji_ldm.generate.pipeline_loader import LatentDiffusionModel
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.generate.unet_runner import apply_num_threads

ImageEncoder = Callable[[RgbaImage, GenerationRequest, LatentDiffusionModel], bytes]
ENCODE_TIME_SMOOTHING = 0.1  # weight of a new measurement
JOIN_TIMEOUT_S = 10.0  # that a thread has to end what it is at


class WorkerThreads:
    """Works on a floor until it is stopped."""

    def __init__(self, floor: BatcherState, finish: ImageEncoder, *, together: int) -> None:
        """Start; prompts of up to `together` pictures are prepared at once."""
        self.floor, self._finish, self._together = floor, finish, together
        works = {"preparing": self._prepare, "a step": self._move, "packing": self._pack}
        self._threads = [threading.Thread(target=self._run, args=(work,), name=name, daemon=True)
                         for name, work in works.items()]  # fmt: skip
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until the threads have ended, which they do soon after `floor.stop`."""
        for thread in self._threads:
            thread.join(JOIN_TIMEOUT_S)

    def _run(self, work: Callable[[], None]) -> None:
        apply_num_threads()
        try:
            while not self.floor.stopped:
                work()
        except BaseException as error:  # noqa: BLE001 (told to everybody who waits, and by `check`)
            self.floor.stop(error)

    @contextmanager
    def _busy(self, expected_s: float = 0.0) -> Iterator[None]:
        name = threading.current_thread().name
        self.floor.begin(name, expected_s)
        yield
        self.floor.busy[name] = None

    def _prepare(self) -> None:
        floor = self.floor
        with floor.changed:
            floor.changed.wait_for(lambda: floor.stopped or floor.lanes.preparable)
            tickets = floor.lanes.to_prepare(self._together)
        with self._busy():
            if len(tickets) > 1:
                with suppress(Exception):  # whose fault it is shows one by one
                    tickets[0].lane.cast.stages.encode_together([ticket.draw for ticket in tickets])
            for ticket in tickets:
                self._prepare_one(ticket)

    def _prepare_one(self, ticket: PendingImage) -> None:
        floor, lane = self.floor, ticket.lane
        try:
            row = None if ticket.ended else lane.cast.stages.row(ticket.draw, ticket.partials)
        except Exception as error:  # noqa: BLE001 (the picture fails alone, with the reason)
            row = None
            floor.fail(ticket, error)
        with floor.changed:
            lane.preparing[ticket.bulk] -= 1
            if row is not None and not ticket.ended:
                ticket.row = row
                lane.ready[ticket.bulk].append(ticket)
            floor.changed.notify_all()

    def _move(self) -> None:
        floor = self.floor
        with floor.changed:
            if not (floor.stopped or floor.movable):
                floor.changed.wait(floor.patience_s())
            late = [*floor.late(), *floor.hopeless()]
            floor.lanes.tidy()
            turn = floor.lanes.turn(floor.classes) if floor.movable and not floor.stopped else None
        for ticket in late:
            floor.fail(ticket, DeadlineExceeded("the picture was not drawn in time"), "expired")
        if turn is not None:
            with self._busy(turn[0].tick_s):
                self._tick(*turn)

    def _tick(self, lane: BatchBucket, tickets: list[PendingImage]) -> None:
        floor, engine = self.floor, lane.cast.engine
        rows = {ticket.row: ticket for ticket in tickets if ticket.row is not None}
        try:
            previews = engine.tick(list(rows))
        except torch.OutOfMemoryError:
            self._make_room(lane, tickets)
            return
        with floor.changed:
            for timed in engine.clock.take():
                lane.cast.pace(timed.shape).profile.observe(timed.cost, timed.seconds)
                floor.meter.tick(timed.num_rows, timed.seconds)
            for row, latents in previews:
                self._hand_over(rows[row], latents, rows[row].num_seen)
                rows[row].num_seen += 1
            for ticket in [ticket for row, ticket in rows.items() if not row.left]:
                lane.running[ticket.bulk].remove(ticket)
                self._hand_over(ticket, ticket.row.x, None)  # type: ignore[union-attr]

    def _make_room(self, lane: BatchBucket, tickets: list[PendingImage]) -> None:
        """Let fewer pictures of this size move at once; those that did not fit fail."""
        lane.cast.engine.forget(lane.shape)
        with self.floor.changed:
            lane.pace.cap = max(1, lane.cap // 2)
        side = " x ".join(str(cells) for cells in lane.shape[1:])
        reason = f"{len(tickets)} pictures of {side} latents need more memory than the device has; lower batch_size"
        for ticket in tickets:
            self.floor.fail(ticket, ModelError(reason))

    def _hand_over(self, ticket: PendingImage, latents: Tensor, preview: int | None) -> None:
        self.floor.made[ticket.bulk].append(DecodeItem(ticket, latents, preview))
        self.floor.changed.notify_all()

    def _pack(self) -> None:
        floor = self.floor
        with floor.changed:
            floor.changed.wait_for(lambda: floor.stopped or any(floor.made))
            batch = self._next_made()
        with self._busy(len(batch) * floor.pack_s):
            made, began = [made for made in batch if not made.ticket.ended], time.monotonic()
            for part, picture in zip(made, self._decode(made), strict=True):
                self._pack_one(part, picture)
            if made:
                floor.pack_s += ENCODE_TIME_SMOOTHING * ((time.monotonic() - began) / len(made) - floor.pack_s)

    def _next_made(self) -> list[DecodeItem]:
        """What is decoded together next, interactive pictures first."""
        queue = next((queue for queue in self.floor.made if queue), None)
        if queue is None:
            return []
        batch = [queue.popleft()]
        lane = batch[0].ticket.lane
        most = lane.cast.stages.decoded(lane.shape)
        while queue and queue[0].ticket.lane is lane and len(batch) < most:
            batch.append(queue.popleft())
        self.floor.changed.notify_all()
        return batch

    def _decode(self, made: Sequence[DecodeItem]) -> list[RgbaImage | Exception]:
        """A picture each, or why there is none."""
        if not made:
            return []
        stages: EncoderDecoder = made[0].ticket.lane.cast.stages
        try:
            return list(stages.pictures([part.latents for part in made]))
        except Exception as error:  # noqa: BLE001 (whose fault it is shows one by one)
            if len(made) == 1:
                return [error]
            return [picture for part in made for picture in self._decode([part])]

    def _pack_one(self, made: DecodeItem, picture: RgbaImage | Exception) -> None:
        ticket, floor = made.ticket, self.floor
        try:
            if isinstance(picture, Exception):
                raise picture
            png = self._finish(picture, ticket.draw, ticket.lane.cast.stages.model)
            if made.preview is not None and ticket.on_partial is not None:
                ticket.on_partial(made.preview, png)
        except Exception as error:  # noqa: BLE001 (the picture fails alone, with the reason)
            floor.fail(ticket, error)
            return
        if made.preview is None and floor.end(ticket, "drawn"):
            ticket.future.set_result(png)
