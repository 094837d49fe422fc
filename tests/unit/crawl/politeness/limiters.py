"""Rate limiters for tests: one in this process, and one in another thread as workers see it."""

import asyncio
import pickle
import threading
from contextlib import contextmanager

from emoji_ldm.config import build
from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter
from emoji_ldm.errors import CrawlError
from emoji_ldm.outcomes import Rejected


def config_of(site, **options):
    return build({"crawl": {"site": site, "fetch_timeout_s": 2, **options}}, where="test").crawl


def with_limiter(config, act):
    """Run `act(limiter)` in an event loop of its own."""

    async def run():
        limiter = LocalRateLimiter(config)
        try:
            return await act(limiter)
        finally:
            await limiter.close()

    return asyncio.run(run())


class RemoteLimiter:
    """A `RemoteRateLimiter`: a rate limiter in an event loop and thread of its own."""

    def __init__(self, config):
        self.loop, self.limiter, self.ended = asyncio.new_event_loop(), None, False
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.limiter = self._wait(self._make(config))

    async def _make(self, config):
        return LocalRateLimiter(config)

    async def _call(self, name, *arguments, **named):
        answered = getattr(self.limiter, name)(*arguments, **named)
        return await answered if asyncio.iscoroutine(answered) else answered

    def _send(self, call):
        if self.ended:
            call.close()
            raise CrawlError("the rate limiter has ended")
        return asyncio.run_coroutine_threadsafe(call, self.loop)

    def _wait(self, call):
        return self._send(call).result(10)

    async def rules(self, origin):
        return pickle.loads(pickle.dumps(await asyncio.wrap_future(self._send(self._call("rules", origin)))))

    async def acquire(self, url, holder):
        try:
            return await asyncio.wrap_future(self._send(self._call("acquire", url, holder)))
        except Rejected as rejection:
            return pickle.loads(pickle.dumps(rejection))

    async def release(self, permit, status, retry_after_s):
        call = self._call("release", permit, status=status, retry_after_s=retry_after_s)
        await asyncio.wrap_future(self._send(call))

    async def record_response(self, origin, status, retry_after_s, recovered):
        call = self._call("record_response", origin, status, retry_after_s, recovered=recovered)
        return await asyncio.wrap_future(self._send(call))

    def sync(self, holder, demands):
        return self._wait(self._call("sync", holder, demands))

    def drop_worker(self, holder):
        self._wait(self._call("drop_worker", holder))


@contextmanager
def remote_of(config):
    remote = RemoteLimiter(config)
    yield remote
    remote.ended = False
    remote._wait(remote.limiter.close())
    remote.loop.call_soon_threadsafe(remote.loop.stop)
    remote.thread.join()
    remote.loop.close()
