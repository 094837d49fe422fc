"""The API behind a real server on a free port, and a runner, each in a thread of its own."""

import asyncio
import threading
import time
from contextlib import contextmanager

import uvicorn

from emoji_ldm.config import ServeConfig
from emoji_ldm.serve.api_keys import new_key, write_keys
from emoji_ldm.serve.app import build_api
from emoji_ldm.serve.bulk.api.router import bulk_routes
from emoji_ldm.serve.bulk.job_runner import JobRunner
from emoji_ldm.store import Store
from tests.seaweedfs_server import free_port


@contextmanager
def serving(folder, backend, *, runs=True, kind="bulk"):
    """Yield (URL, key of ann, of this kind) while the block runs; without `runs`, no runner generates anything."""
    store, port = Store(str(folder / "store")), free_port()
    secret, key = new_key("ann", kind, 0, None)
    write_keys(str(folder / "keys.json"), (key,))
    api = build_api(backend, ServeConfig(keys=str(folder / "keys.json")), routers=[bulk_routes(store, backend)])
    server = uvicorn.Server(uvicorn.Config(api, port=port, log_level="error"))
    threads = [threading.Thread(target=server.run, daemon=True)]
    loop, runner = asyncio.new_event_loop(), JobRunner(store, backend, poll_s=0.05)
    task = loop.create_task(runner.run())
    if runs:
        threads.append(threading.Thread(target=_until_cancelled, args=(loop, task), daemon=True))
    [thread.start() for thread in threads]
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}", secret
    finally:
        server.should_exit = True
        loop.call_soon_threadsafe(task.cancel)
        [thread.join(20) for thread in threads]


def _until_cancelled(loop, task):
    try:
        loop.run_until_complete(task)
    except asyncio.CancelledError:
        pass
    finally:
        loop.close()
