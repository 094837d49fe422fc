"""Prints the log of a submitter Pod, without the stack trace of Ray's client when it loses its cluster.

The submitter writes what the job's driver writes, and its own errors. When a job is suspended or its head is lost, the
client `ray job logs` ends with a stack trace of 60 lines, which says nothing that the state of the RayJob does not say
better. Stack traces of the driver are printed: they are what somebody looks for.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterable

from emoji_ldm.progress import print_status

TRACEBACK = "Traceback (most recent call last):"
# Lines between the tracebacks of one chain of exceptions.
CHAIN = ("During handling of the above exception", "The above exception was the direct cause")
# Code of Ray's client. A driver does not run it, since it is started by Ray and not by the client.
CLIENT_FRAME = re.compile(r'File "[^"]*(?:/bin/ray|/ray/dashboard/modules/job/\w+\.py)"')

MAX_REASON_LEN = 120  # of what is printed of the client's error


def print_log(lines: Iterable[str]) -> None:
    """Print lines as they come; a traceback is held back until it is complete."""
    held: list[str] = []
    for line in lines:
        if line.startswith(TRACEBACK) or (held and _continues(held, line)):
            held.append(line)
            continue
        _release(held)
        _write(line)
    _release(held)


def _continues(held: list[str], line: str) -> bool:
    """Whether a line belongs to the chain of tracebacks so far."""
    if not line.strip() or line.startswith((" ", *CHAIN)):
        return True
    # The first line without indentation is the exception, which ends this traceback of the chain.
    return held[-1].startswith((" ", TRACEBACK))


def _release(held: list[str]) -> None:
    text, held[:] = "".join(held), []
    if CLIENT_FRAME.search(text):
        # HTTP clients put the whole chain of causes into the last line, with addresses of objects.
        reason = textwrap.shorten(text.rstrip().splitlines()[-1], MAX_REASON_LEN, placeholder=" …")
        print_status(f"the submitter lost the cluster: {reason}")
    elif text:
        _write(text)


def _write(text: str) -> None:
    sys.stdout.write(text)
    # Piped output is buffered in blocks, and the log would appear minutes late.
    sys.stdout.flush()
