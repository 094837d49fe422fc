"""Runs in a Pod: takes connections on each port of its arguments and says "ok" on them."""

import asyncio
import sys


async def say_ok(_, writer):
    writer.write(b"ok")
    await writer.drain()
    writer.close()


async def main():
    for port in sys.argv[1:]:
        await asyncio.start_server(say_ok, "0.0.0.0", int(port))
    print("serving", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
