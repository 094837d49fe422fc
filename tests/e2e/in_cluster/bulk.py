"""Runs in a Pod: has a set of images made and prints its end and its items, as JSON lines. Arguments: URL PROMPTS.

An answer that does not come, while a part of the service is replaced, is asked for again: that is what a client does.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request

URL, PROMPTS = sys.argv[1], int(sys.argv[2])
JOB = f"e2e-{time.time_ns()}"  # the same however often a request is sent
ENDS = ("completed", "failed", "cancelled", "expired")


def call(path, body=None):
    headers = {"Authorization": f"Bearer {os.environ['KEY']}", "Content-Type": "application/json",
               "Idempotency-Key": JOB}  # fmt: skip
    while True:
        try:
            request = urllib.request.Request(URL + path, body and json.dumps(body).encode(), headers)
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                raise
        except OSError:
            pass
        time.sleep(1)


job = call("", {"prompts": [f"a happy blob, number {n}" for n in range(PROMPTS)], "steps": 12, "size": "64x64"})
print(json.dumps({"status": job["status"], "id": job["id"]}), flush=True)
while (told := call(f"/{job['id']}"))["status"] not in ENDS:
    print(json.dumps({"progress": told}), flush=True)
    time.sleep(3)
print(json.dumps({"end": told}), flush=True)
print(json.dumps({"items": call(f"/{job['id']}/items?limit=100")}), flush=True)
