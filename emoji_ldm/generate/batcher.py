"""Pictures on order, drawn together: the engine with queues before it and threads around it. Thread-safe.

A thread prepares rows (prompts, start pictures), one moves them, one decodes and packs what is done:

    submit -> fair queues -> prepare -> ready -> ticks -> finish -> ticket.future

A picture that cannot be made fails alone. A thread that dies fails every picture, and `check` says so.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

from torch import Tensor

from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.draw import Draw
from emoji_ldm.generate.lanes import CLASSES, Cast, Lane, Lanes, OnPartial, Ticket
from emoji_ldm.generate.model import Model
from emoji_ldm.generate.network import one_thread
from emoji_ldm.generate.stages import Picture
from emoji_ldm.generate.warm import cast_of

Finish = Callable[[Picture, Draw, Model], bytes]
STUCK_S = 60.0  # a tick that takes longer will never end
FULL = 4  # batches of pictures that may wait to be decoded before no more are begun


class Full(Exception):
    """Too much waits, or the picture would not be ready in time."""

    def __init__(self, retry_after_s: float) -> None:
        """Say when to come back."""
        super().__init__(f"try again in {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type[Full], tuple[float]]:
        return Full, (self.retry_after_s,)


class Expired(Exception):
    """Not drawn within `timeout_s`."""


class Closed(Exception):
    """The batcher takes no more pictures: it was closed, or one of its threads died (see the cause)."""


@dataclass(frozen=True)
class Stats:
    """Counters since the start, and gauges; those by class have the keys of CLASSES."""

    queued: Mapping[str, int]  # pictures that wait
    running: Mapping[str, int]  # rows in flight
    finishing: int  # pictures that wait to be decoded
    row_steps: Mapping[str, int]  # steps still to go, of all that wait or run
    oldest_s: Mapping[str, float]  # age of the one that waits longest
    rows_per_forward: Mapping[int, int]  # ticks by pictures in them
    tick_s: Mapping[int, float]  # seconds spent in them
    row_steps_per_s: float  # of full ticks, measured
    drawn: int
    cancelled: int
    refused: int
    expired: int
    failed: int


@dataclass(frozen=True)
class Bounds:
    """What the newest weights can draw."""

    model_key: str
    width_px: int  # of a picture where a draw does not say
    height_px: int
    side_step_px: int  # sides are multiples of this
    max_side_px: int
    max_steps: int
    schedulers: tuple[str, ...]  # the first is what "" means
    loras: tuple[str, ...]


class Batcher:
    """Draws pictures of one model, and of its adapters, together."""

    def __init__(
        self, model: Model, *, batch_size: int, strict: bool, max_queued: int, finish: Finish,
        loras: Mapping[str, Path] | None = None,
    ) -> None:  # fmt: skip
        """Measure the model, then start; `max_queued` bounds the pictures that wait, per class.

        Raises:
            ConfigError: An adapter does not fit the model.
        """
        self.batch_size, self.strict, self.max_queued = batch_size, strict, max_queued
        self._finish = finish
        self._changed = threading.Condition()
        self._lanes = Lanes()
        self._finishing: SimpleQueue[tuple[Ticket, Tensor, int | None] | None] = SimpleQueue()
        self._num_finishing = 0
        self._counts: Counter[str] = Counter()
        self._forwards: Counter[int] = Counter()
        self._tick_s: Counter[int] = Counter()
        self._ticking_since: float | None = None
        self._error: BaseException | None = None
        self._closed = self._stopped = False
        self._casts = {name: cast_of(model, self.batch_size, strict) for name, model in _models(model, loras or {})}
        acts = (self._prepare, self._move, self._pack)
        self._threads = [
            threading.Thread(target=self._run, args=(act,), name=act.__name__, daemon=True) for act in acts
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self, draw: Draw, *, tenant: str = "", bulk: bool = False, timeout_s: float = math.inf,
        on_partial: OnPartial | None = None, partials: int = 0,
    ) -> Ticket:  # fmt: skip
        """Order a picture.

        Args:
            draw: What to draw.
            tenant: Who asks; queues are fair between tenants.
            bulk: Gives way to others.
            timeout_s: Nobody waits longer.
            on_partial: Told up to `partials` previews, in the thread that packs.
            partials: Number of previews.

        Raises:
            Full: Too much waits, or the picture would not be ready in time.
            ConfigError: This model cannot make the draw.
            Closed: Nothing is drawn any more.
        """
        cast = self._cast(draw.lora)
        cast.stages.check(draw)
        shape, steps = cast.stages.shape(draw), len(cast.stages.schedule(draw))
        with self._changed:
            if self._closed:
                raise Closed("nothing is drawn any more") from self._error
            lane = self._lanes.lane(cast, shape)
            ticket = Ticket(draw, tenant, bulk, time.monotonic() + timeout_s, on_partial, partials, steps, lane)
            self._refuse(ticket, timeout_s)
            lane.waiting[bulk].push(ticket)
            self._changed.notify_all()
        ticket.future.add_done_callback(lambda _: self._given_up(ticket))
        return ticket

    def swap(self, model: Model, loras: Mapping[str, Path] | None = None) -> None:
        """Draw what is ordered from now on with other weights; what was ordered before keeps the old ones."""
        casts = {name: cast_of(found, self.batch_size, self.strict) for name, found in _models(model, loras or {})}
        with self._changed:
            self._casts = casts

    def bounds(self) -> Bounds:
        """What may be asked for."""
        casts = self._casts
        stages = casts[""].stages
        model, tables = stages.model, stages.tables
        return Bounds(
            model.key, model.size_px, model.size_px, stages.side_step_px, stages.max_side_px, tables.max_steps,
            tables.schedulers, tuple(name for name in casts if name),
        )  # fmt: skip

    def stats(self) -> Stats:
        """What happens now, and what happened so far."""
        with self._changed:
            return self._stats()

    def check(self) -> None:
        """Nothing, or RuntimeError if a thread died or a tick hangs."""
        since = self._ticking_since
        if self._error is not None:
            raise RuntimeError(f"drawing has stopped: {self._error!r}") from self._error
        if since is not None and time.monotonic() - since > STUCK_S:
            raise RuntimeError(f"a step has not ended for {STUCK_S:.0f} s")

    def close(self, drain_s: float = 0) -> None:
        """Take no more; let what is there go on for up to `drain_s`, then fail the rest with Closed."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._outstanding(), drain_s)
            self._stopped = True
            self._changed.notify_all()
        self._finishing.put(None)
        for thread in self._threads:
            thread.join(STUCK_S)
        self._fail_all(Closed("the batcher was closed"))
        for cast in self._casts.values():
            cast.engine.network.close()

    def _cast(self, lora: str) -> Cast:
        casts = self._casts
        if lora not in casts:
            names = ", ".join(name for name in casts if name) or "there is none"
            raise ConfigError(f"lora={lora} is unknown; choose of: {names}")
        return casts[lora]

    # Waiting and refusing.

    def _refuse(self, ticket: Ticket, timeout_s: float) -> None:
        """Full if the ticket must not wait; the caller holds the lock."""
        waiting = sum(len(lane.waiting[ticket.bulk]) for lane in self._lanes)
        wait_s = self._wait_s(ticket)
        if waiting >= self.max_queued or wait_s > timeout_s:
            self._counts["refused"] += 1
            late = wait_s - timeout_s if wait_s > timeout_s else wait_s / max(1, waiting)
            raise Full(max(1.0, late))

    def _wait_s(self, ticket: Ticket) -> float:
        """Predicted seconds until a new ticket would be drawn."""
        wait_s = 0.0
        for lane in self._lanes:
            classes = (0, 1) if ticket.bulk else (0,)
            moving = sum(other.left for bulk in classes for other in (*lane.ready[bulk], *lane.running[bulk]))
            ahead = lane.waiting[ticket.bulk].ahead(ticket.tenant, ticket.steps)
            ahead += lane.waiting[0].steps if ticket.bulk else 0
            wait_s += (moving + ahead) * lane.step_s
        own = ticket.lane
        beside = own.running[ticket.bulk][: own.cast.cap - 1]
        return wait_s + ticket.steps * own.seconds([*beside, ticket])

    def _given_up(self, ticket: Ticket) -> None:
        """Runs when the future ends; all that is left to do is for a cancelled one."""
        if ticket.future.cancelled() and self._end(ticket, "cancelled"):
            ticket.future.set_running_or_notify_cancel()

    def _end(self, ticket: Ticket, how: str) -> bool:
        """Count the end of a ticket, once; False if it has ended before."""
        with self._changed:
            if ticket.ended:
                return False
            ticket.ended = True
            self._counts[how] += 1
            for queue in ticket.lane.waiting:
                queue.remove(lambda other: other is ticket)
            self._changed.notify_all()
        return True

    def _fail(self, ticket: Ticket, error: BaseException, how: str = "failed") -> None:
        if self._end(ticket, how) and ticket.future.set_running_or_notify_cancel():
            ticket.future.set_exception(error)

    # The threads.

    def _run(self, act: Callable[[], bool]) -> None:
        one_thread()
        try:
            while act():
                pass
        except BaseException as error:  # noqa: BLE001 (told to everybody who waits, and by `check`)
            self._error = error
            with self._changed:
                self._closed = self._stopped = True
                self._changed.notify_all()
            self._finishing.put(None)
            self._fail_all(error)

    def _prepare(self) -> bool:
        """Make the next tickets ready; False at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._preparable())
            if self._stopped:
                return False
            tickets = self._lanes.to_prepare(1 if self.strict else self.batch_size)
        stages = tickets[0].lane.cast.stages
        stages.warm([ticket.draw.prompt for ticket in tickets])
        for ticket in tickets:
            try:
                ticket.row = stages.row(ticket.draw, ticket.partials)
            except Exception as error:  # noqa: BLE001 (the picture's own fault: it fails alone)
                self._fail(ticket, error)
            with self._changed:
                ticket.lane.preparing[ticket.bulk] -= 1
                if not ticket.ended:
                    ticket.lane.ready[ticket.bulk].append(ticket)
                self._changed.notify_all()
        return True

    def _preparable(self) -> bool:
        return any(lane.wants(bulk) for lane in self._lanes for bulk in (0, 1))

    def _move(self) -> bool:
        """One tick; False at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._tickable(), self._patience_s())
            if self._stopped:
                return False
            late = self._drop()
            turn = self._lanes.turn() if self._tickable() else None
        for ticket in late:
            self._fail(ticket, Expired("the picture was not drawn in time"), "expired")
        if turn is not None:
            self._tick(*turn)
        return True

    def _tickable(self) -> bool:
        return self._lanes.movable and self._num_finishing < FULL * self.batch_size

    def _tick(self, lane: Lane, tickets: list[Ticket]) -> None:
        began = self._ticking_since = time.monotonic()
        rows = {ticket.row: ticket for ticket in tickets if ticket.row is not None}
        previews = lane.cast.engine.tick(list(rows))
        seconds, self._ticking_since = time.monotonic() - began, None
        for row, latents in previews:
            self._to_finish(rows[row], latents, rows[row].num_seen)
            rows[row].num_seen += 1
        done = [ticket for row, ticket in rows.items() if not row.left]
        with self._changed:
            guided = sum(row.negative is not None for row in rows)
            lane.profile.observe(lane.cast.engine.cost_of(len(rows), guided), seconds)
            self._forwards[len(rows)] += 1
            self._tick_s[len(rows)] += seconds  # type: ignore[assignment]
            for ticket in done:
                lane.running[ticket.bulk].remove(ticket)
            if done:
                self._changed.notify_all()
        for row, ticket in rows.items():
            if not row.left:
                self._to_finish(ticket, row.x, None)

    def _to_finish(self, ticket: Ticket, latents: Tensor, preview: int | None) -> None:
        with self._changed:
            self._num_finishing += 1
        self._finishing.put((ticket, latents, preview))

    def _drop(self) -> list[Ticket]:
        """Take out rows that have ended, and return tickets that are late; the caller holds the lock."""
        now = time.monotonic()
        late = []
        for lane in self._lanes:
            for bulk in (0, 1):
                late += [t for t in (*lane.waiting[bulk], *lane.ready[bulk], *lane.running[bulk]) if t.deadline < now]
                if any(t.ended for t in lane.running[bulk]):
                    lane.running[bulk] = [t for t in lane.running[bulk] if not t.ended]
                for ticket in [t for t in lane.ready[bulk] if t.ended]:
                    lane.ready[bulk].remove(ticket)
        self._lanes.drop_idle()
        return late

    def _patience_s(self) -> float | None:
        """Until the next deadline; None without one."""
        deadlines = [t.deadline for lane in self._lanes for bulk in (0, 1)
                     for t in (*lane.waiting[bulk], *lane.ready[bulk], *lane.running[bulk])]  # fmt: skip
        nearest = min(deadlines, default=math.inf)
        return None if nearest == math.inf else max(0.0, nearest - time.monotonic()) + 0.001

    def _pack(self) -> bool:
        """Decode and pack what is done; False at the end."""
        first = self._finishing.get()
        if first is None:
            return False
        items = [first]
        while len(items) < first[0].lane.cast.stages.decode_rows:
            try:
                more = self._finishing.get_nowait()
            except Empty:
                break
            if more is None:
                self._finishing.put(None)
                break
            items.append(more)
        for ticket, latents, preview in items:
            self._pack_one(ticket, latents, preview)
        return True

    def _pack_one(self, ticket: Ticket, latents: Tensor, preview: int | None) -> None:
        try:
            if not ticket.ended:
                stages = ticket.lane.cast.stages
                png = self._finish(stages.pictures([latents])[0], ticket.draw, stages.model)
                if preview is not None and ticket.on_partial is not None:
                    ticket.on_partial(preview, png)
                elif self._end(ticket, "drawn") and ticket.future.set_running_or_notify_cancel():
                    ticket.future.set_result(png)
        except Exception as error:  # noqa: BLE001 (the picture's own fault: it fails alone)
            self._fail(ticket, error)
        with self._changed:
            self._num_finishing -= 1
            self._changed.notify_all()

    def _outstanding(self) -> bool:
        return self._num_finishing > 0 or not all(lane.idle for lane in self._lanes)

    def _fail_all(self, error: BaseException) -> None:
        with self._changed:
            tickets = [t for lane in self._lanes for bulk in (0, 1)
                       for t in (*lane.waiting[bulk], *lane.ready[bulk], *lane.running[bulk])]  # fmt: skip
        for ticket in tickets:
            self._fail(ticket, error)

    def _stats(self) -> Stats:
        queued, running, row_steps, oldest = Counter(), Counter(), Counter(), dict.fromkeys(CLASSES, 0.0)  # type: ignore[var-annotated]
        now = time.monotonic()
        for lane in self._lanes:
            for bulk, name in enumerate(CLASSES):
                waiting = [*lane.waiting[bulk], *lane.ready[bulk]]
                queued[name] += len(waiting) + lane.preparing[bulk]
                running[name] += len(lane.running[bulk])
                row_steps[name] += sum(ticket.left for ticket in (*waiting, *lane.running[bulk]))
                oldest[name] = max([oldest[name], *(now - ticket.began for ticket in waiting)])
        own = self._casts[""]
        step_s = own.profile.seconds(own.engine.cost_of(own.cap, own.cap)) / own.cap
        outcomes = {name: self._counts[name] for name in ("drawn", "cancelled", "refused", "expired", "failed")}
        by_class = ({name: counter[name] for name in CLASSES} for counter in (queued, running, row_steps))
        queued_, running_, steps_ = by_class
        return Stats(queued_, running_, self._num_finishing, steps_, oldest, dict(self._forwards),
                     dict(self._tick_s), 1 / step_s, **outcomes)  # fmt: skip


def _models(model: Model, loras: Mapping[str, Path]) -> list[tuple[str, Model]]:
    """The model itself under the name "", and with each adapter."""
    if loras:
        from emoji_ldm.generate.lora import with_lora  # type: ignore[import-not-found, unused-ignore]

        return [("", model), *((name, with_lora(model, folder)) for name, folder in loras.items())]
    return [("", model)]
