"""How large objects are sent: few parts at once however many files, and nothing is left of what fails."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from botocore.exceptions import ClientError

from emoji_ldm import s3
from emoji_ldm.errors import StoreError


class Bucket:
    """A client of an S3 that keeps parts until they are completed or aborted."""

    def __init__(self, fails_at=None):
        self.fails_at, self.lock = fails_at, threading.Lock()
        self.parts, self.objects, self.busy, self.most = {}, {}, 0, 0

    def create_multipart_upload(self, Key, **_):
        self.parts[Key] = {}
        return {"UploadId": Key}

    def upload_part(self, Key, PartNumber, Body, **_):
        with self.lock:
            self.busy += 1
            self.most = max(self.most, self.busy)
        time.sleep(0.002)
        with self.lock:
            self.busy -= 1
        if PartNumber == self.fails_at:
            answer = {"Error": {"Code": "SlowDown"}, "ResponseMetadata": {"HTTPStatusCode": 503}}
            raise ClientError(answer, "UploadPart")
        self.parts[Key][PartNumber] = Body
        return {"ETag": f"{Key}-{PartNumber}"}

    def abort_multipart_upload(self, Key, **_):
        assert self.busy == 0, "a part that is under way would be left behind"
        del self.parts[Key]

    def complete_multipart_upload(self, Key, MultipartUpload, **_):
        parts = self.parts.pop(Key)
        assert [part["PartNumber"] for part in MultipartUpload["Parts"]] == sorted(parts)
        self.objects[Key] = b"".join(parts[number] for number in sorted(parts))


@pytest.fixture
def bucket(monkeypatch):
    made = Bucket()
    monkeypatch.setattr(s3, "PART_BYTES", 10)
    monkeypatch.setattr(s3, "_uploader", lambda access: made)
    return made


def test_files_at_once_share_the_places_for_parts(bucket):
    files = {f"file-{number}": bytes([number]) * 205 for number in range(6)}
    with ThreadPoolExecutor(len(files)) as pool:
        list(pool.map(lambda name: s3.put_parts(memoryview(files[name]), f"bucket/{name}"), files))
    assert bucket.objects == files
    assert 1 < bucket.most <= s3.UPLOAD_THREADS


def test_a_part_that_fails_is_one_line_and_leaves_nothing(bucket):
    bucket.fails_at = 3
    with pytest.raises(StoreError, match=r"cannot write bucket/large: .*SlowDown"):
        s3.put_parts(memoryview(bytes(400)), "bucket/large")
    assert not bucket.parts and not bucket.objects
    with suppress(StoreError):
        s3.put_parts(memoryview(bytes(15)), "bucket/small")
    assert bucket.objects == {"small": bytes(15)}, "its threads live on"
