"""A private part of Ray Data: the start of an actor, with which Ray's core prints a false alarm.

At each start of a pool's actor the core of Ray 2.60 writes an error to standard error, past Python's logging: "has
constructor arguments in the object store and max_restarts > 0" (Ray's issue 53727). It warns of arguments that may be
gone when the actor is restarted. Ray Data holds its arguments as long as the pool lives, so here it means nothing, and
Ray Data has no option for it: without restarts, a stage would end at the first lost worker.

Ray's own remedy is RAY_BACKEND_LOG_LEVEL=fatal, which costs too much: a cluster that is lost then ends the command
without a word, and the log files of a local Ray's processes stay empty.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.data._internal.execution.operators.actor_pool_map_operator import ActorPoolMapOperator

from emoji_ldm.library_compat import require_version

KNOWN_VERSIONS = ("2.60",)
FALSE_ALARM = b"ray-project/ray/issues/53727"

require_version("ray", KNOWN_VERSIONS)


def silence_false_alarm() -> None:
    """Leave the false alarm out of what the start of an actor prints, from now on; safe to call again."""
    start = ActorPoolMapOperator._start_actor
    if hasattr(start, "__wrapped__"):
        return

    @functools.wraps(start)
    def start_quietly(*args: Any) -> Any:
        with _stderr_without(FALSE_ALARM):
            return start(*args)

    ActorPoolMapOperator._start_actor = start_quietly


@contextmanager
def _stderr_without(text: bytes) -> Iterator[None]:
    """Hold back what this process writes to standard error, C++ included, then write all lines but those with `text`.

    A start takes milliseconds, in the thread that prints: so other threads' lines come a moment late, and none is lost.
    """
    with tempfile.TemporaryFile() as held:
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            os.write(2, b"".join(line for line in held if text not in line))
