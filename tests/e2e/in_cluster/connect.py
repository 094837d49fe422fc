"""Runs in a Pod: tries to connect to each HOST:PORT of its arguments and prints those that were reached, as JSON."""

import asyncio
import json
import sys

TIMEOUT_S = 4


async def reached(target):
    host, _, port = target.rpartition(":")
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), TIMEOUT_S)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def main():
    targets = sys.argv[1:]
    print(json.dumps(dict(zip(targets, await asyncio.gather(*map(reached, targets)), strict=True))))


asyncio.run(main())
