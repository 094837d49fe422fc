"""Runners in processes that tests kill: python -m tests.unit.serve.bulk.runner_process STORE LOG"""

import asyncio
import os
import random
import sys
from pathlib import Path

from emoji_ldm.serve.bulk.job_runner import JobRunner
from emoji_ldm.store import Store
from tests.unit.serve.bulk.instant_backend import InstantBackend


class UnevenBackend(InstantBackend):
    """Some images take longer than others."""

    async def generate(self, task):
        await asyncio.sleep(random.uniform(0, 0.1))
        return await super().generate(task)


def work(folder, log):
    with Path(log).open("a", buffering=1) as stream:
        backend = UnevenBackend(fail=lambda task: print(task.request_id, file=stream))
        asyncio.run(JobRunner(Store(folder), backend, max_in_flight=16, poll_s=0.05).run(until_idle=True))


def main(folder, log):
    """Fork a process with a runner for each line of input (importing takes long); print its id and its exit status."""
    for _ in sys.stdin:
        if not (child := os.fork()):
            work(folder, log)
            os._exit(0)
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
