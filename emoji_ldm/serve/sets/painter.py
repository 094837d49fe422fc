"""One picture of a bulk job, whatever it takes: waits while the pools are full, tries again after what may pass."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping

from emoji_ldm.errors import EmojiLdmError
from emoji_ldm.serve.answers import RequestError
from emoji_ldm.serve.backend import Backend, Expired, Limits, Overloaded, Wish
from emoji_ldm.serve.sets.items import Row, drawn, failed
from emoji_ldm.serve.sets.jobs import Job, Picture
from emoji_ldm.serve.sets.window import Window

REFUSED = (EmojiLdmError, RequestError, ValueError)  # this picture's own fault: it would be refused again
TRIES = 4  # that failed while other pictures went well
ALONE = 0.2  # weight of a try while no other went well: it is the pools' fault more likely than the picture's
LONGEST_PAUSE_S = 30.0
LONGEST_REASON = 500  # characters


class Painter:
    """Draws pictures through a backend, within a window."""

    def __init__(self, backend: Backend, window: Window, *, first_pause_s: float = 0.5) -> None:
        """Share `window` among all jobs."""
        self.backend, self.window, self.first_pause_s = backend, window, first_pause_s
        self.failures = 0  # tries that did not give a picture

    async def row(self, job: Job, picture: Picture, models: Mapping[str, Limits]) -> Row:
        """The finished row. The caller has entered the window, and leaves it after this."""
        if picture.line.model not in models:
            return failed(picture, f"there is no model {picture.line.model!r} any more")
        wish = Wish(picture.line.model, picture.draw, tenant=job.owner, bulk=True,
                    request_id=f"{job.id}-{picture.index}")  # fmt: skip
        tries, pause_s = 0.0, self.first_pause_s
        while True:
            others = self.window.taken_total
            try:
                png = await self.backend.draw(wish)
                row = await asyncio.to_thread(drawn, picture, png) if picture.line.output else drawn(picture, png)
            except (Overloaded, Expired) as error:
                self.window.refused()
                await asyncio.sleep(getattr(error, "retry_after_s", 1.0) * random.uniform(1, 1.5))
                continue
            except REFUSED as error:
                return failed(picture, _reason(error))
            except Exception as error:  # noqa: BLE001 - the edge of one picture: after some tries the reason is kept
                self.failures += 1
                tries += 1 if self.window.taken_total > others else ALONE
                if tries >= TRIES:
                    return failed(picture, f"given up after several tries: {_reason(error)}")
            else:
                self.window.taken()
                return row
            await asyncio.sleep(pause_s * random.uniform(0.5, 1))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 1] + "…"
