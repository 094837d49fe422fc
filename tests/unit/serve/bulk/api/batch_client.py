"""Batches through the official OpenAI client."""

import json
import time

URL = "/v1/images/generations"


def line(custom_id, **body):
    return {"custom_id": custom_id, "method": "POST", "url": URL, "body": {"model": "demo", **body}}


def upload(client, lines):
    text = "".join(json.dumps(each) + "\n" for each in lines)
    return client.files.create(file=("lines.jsonl", text.encode()), purpose="batch")


def begin(client, lines, **options):
    return begin_with(client, upload(client, lines), **options)


def begin_with(client, file, **options):
    return client.batches.create(input_file_id=file.id, endpoint=URL, completion_window="24h", **options)


def ended(client, batch):
    """The batch after its end."""
    while batch.status in ("validating", "in_progress", "finalizing"):
        time.sleep(0.02)
        batch = client.batches.retrieve(batch.id)
    return batch


def contents(client, file_id):
    return [json.loads(each) for each in client.files.content(file_id).text.splitlines()]
