"""Runs in a Pod: asks the service for images at a steady rate and prints how each request ended, as JSON lines.

Arguments: URL REQUESTS_PER_S SECONDS; the key is in KEY. Each request has a connection of its own, as those of many
clients do. Nothing is asked twice: what the service refuses, a client would see.
"""

import json
import os
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

URL, RATE, SECONDS = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
BODY = {"prompt": "a happy blob", "steps": 4, "size": "64x64", "seed": 0}


def ask(number):
    body = json.dumps({**BODY, "seed": number}).encode()
    headers = {"Authorization": f"Bearer {os.environ['KEY']}", "Content-Type": "application/json"}
    began = time.monotonic()
    try:
        with urllib.request.urlopen(urllib.request.Request(URL, body, headers), timeout=120) as answer:
            told = answer.status if b"b64_json" in answer.read() else "no image"
    except urllib.error.HTTPError as error:
        told = f"{error.code} {error.read()[:200]!r}"
    except OSError as error:
        told = f"{type(error).__name__} {error}"
    print(json.dumps({"number": number, "status": told, "s": round(time.monotonic() - began, 2)}), flush=True)


def wait_for_network():
    """An enforcer of network policies lets a new Pod in only once it has noticed it, which takes a second or two."""
    for _ in range(60):
        try:
            socket.create_connection((urlsplit(URL).hostname, urlsplit(URL).port), timeout=5).close()
        except OSError:
            time.sleep(1)
        else:
            return


wait_for_network()
began, threads = time.monotonic(), []
while time.monotonic() - began < SECONDS:
    threads.append(threading.Thread(target=ask, args=(len(threads),)))
    threads[-1].start()
    time.sleep(max(0.0, began + len(threads) / RATE - time.monotonic()))
for thread in threads:
    thread.join()
