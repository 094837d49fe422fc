"""One picture of a bulk job, whatever it takes: waits while the pools are full, tries again after what may pass."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Mapping

from emoji_ldm.errors import EmojiLdmError
from emoji_ldm.serve.answers import RequestError
from emoji_ldm.serve.backend import Backend, Expired, Limits, Lost, Overloaded, Wish
from emoji_ldm.serve.sets.items import GIVEN_UP, Row, drawn, failed
from emoji_ldm.serve.sets.jobs import Job
from emoji_ldm.serve.sets.lines import Picture
from emoji_ldm.serve.sets.window import Window

REFUSED = (EmojiLdmError, RequestError, ValueError)  # this picture's own fault: it would be refused again
TRIES = 4  # that failed while other pictures went well
ALONE = 0.2  # weight of a try while no other went well: it is the pools' fault more likely than the picture's
LONGEST_PAUSE_S = 30.0
LONGEST_REASON = 500  # characters


class Painter:
    """Draws pictures through a backend, within a window per model, which all jobs share."""

    def __init__(self, backend: Backend, most: int, *, first_pause_s: float = 0.5) -> None:
        """Ask each model for at most `most` pictures at once."""
        self.backend, self.first_pause_s = backend, first_pause_s
        self.windows = defaultdict[str, Window](lambda: Window(most))
        self._alone = defaultdict[str, asyncio.Lock](asyncio.Lock)
        self.failures = 0  # tries that did not give a picture

    async def row(self, job: Job, picture: Picture, models: Mapping[str, Limits]) -> Row:
        """The finished row. The caller has entered the model's window, and leaves it after this."""
        if picture.line.model not in models:
            return failed(picture, f"there is no model {picture.line.model!r} any more")
        wish = Wish(picture.line.model, picture.draw, tenant=job.owner, bulk=True,
                    request_id=f"{job.id}-{picture.index}")  # fmt: skip
        window, tries, pause_s, lost = self.windows[wish.model], 0.0, self.first_pause_s, False
        while True:
            others = window.taken_total
            try:
                png = await self._drawn(wish, alone=lost)
                row = await asyncio.to_thread(drawn, picture, png) if picture.line.output else drawn(picture, png)
            except Overloaded as error:
                window.refused()
                await asyncio.sleep(error.retry_after_s * random.uniform(1, 1.5))
                continue
            except REFUSED as error:
                return failed(picture, _reason(error))
            except Exception as error:  # noqa: BLE001 - the edge of one picture: after some tries the reason is kept
                self.failures += 1
                if isinstance(error, Expired):  # a try: one that takes too long by itself would come back for ever
                    window.refused()
                tries += 1 if window.taken_total > others else ALONE
                if tries >= TRIES or (lost and isinstance(error, Lost)):
                    return failed(picture, f"{GIVEN_UP}: {_reason(error)}")
                lost = lost or isinstance(error, Lost)
            else:
                window.taken()
                return row
            await asyncio.sleep(pause_s * random.uniform(0.5, 1))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _drawn(self, wish: Wish, *, alone: bool) -> bytes:
        """A picture; one that was lost with its replicas, by its own fault or a neighbour's, is drawn when no other
        such one is, which tells whose fault it was.
        """
        if not alone:
            return await self.backend.draw(wish)
        async with self._alone[wish.model]:
            return await self.backend.draw(wish)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 1] + "…"
