"""Saves that outlast an outage of the store: they are tried again while the training goes on.

The state to save is a copy in host memory, so that nothing is lost by waiting. Only the next save has to wait for this
one. Without it, an outage of a minute would cost all steps since the last checkpoint, and the start of a new group.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_delay,
    stop_any,
    stop_when_event_set,
    wait_exponential,
)

from emoji_ldm.errors import StoreError
from emoji_ldm.store import Store

T = TypeVar("T")
# An object store that restarts is back within minutes. One that is away for longer needs somebody to look at it.
MAX_OUTAGE_S = 600.0
FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 30.0


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that a disk or a quota is full, which no waiting cures."""
    # Arrow, safetensors and our store may lose the number of the system's error on the way, but keep its text.
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)


def outlast_outage(store: Store, work: Callable[[], T], note: Callable[[str], None], stop: threading.Event) -> T:
    """The result of `work`, tried again while an S3 store does not answer; it must be harmless to repeat.

    Args:
        store: Where the work writes. A local folder is not waited for: it does not come back by itself.
        work: What to do.
        note: Gets a line for people when the first attempt fails, and one when the store is back.
        stop: Ends the waiting.

    Raises:
        StoreError: The store was away for more than ten minutes, or a disk is full; any other error of `work`.
    """

    def report(state: RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome:
            note(f"a checkpoint waits, training goes on: {state.outcome.exception()}")

    retrying = Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, StoreError) and not is_disk_full(error)),
        wait=wait_exponential(multiplier=FIRST_PAUSE_S, max=MAX_PAUSE_S),
        stop=stop_any(stop_after_delay(MAX_OUTAGE_S if store.is_s3 else 0.0), stop_when_event_set(stop)),
        sleep=sleep_using_event(stop),
        before_sleep=report,
        reraise=True,
    )
    done = retrying(work)
    if retrying.statistics["attempt_number"] > 1:
        note(
            f"the store is back after {retrying.statistics['delay_since_first_attempt']:.0f} s, the checkpoint is saved"
        )
    return done
