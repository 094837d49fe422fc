"""Stores on S3: clients for the endpoint that the environment names, conditional PUTs and multipart uploads.

The only module that reads endpoints and credentials. They come from the usual environment: AWS_ENDPOINT_URL (MinIO,
SeaweedFS, ...), AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION. With an endpoint set,
addresses are path style (`http://host:port/bucket/key`).

Three clients share the work: pyarrow's file system reads and writes files, delta-rs reads Delta logs, and boto3 sends
what both lack: PUTs with `If-None-Match` or `If-Match`, on which all exactly-once guarantees of this project rest, and
multipart uploads in parallel.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from pyarrow import fs

from emoji_ldm.errors import StoreError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

CONNECT_TIMEOUT_S = 5
# S3 allows 10,000 parts of at least 5 MiB per upload. Parts of 8 MiB keep many in flight and allow objects of 80 GB.
PART_BYTES = 2**23  # of a multipart upload
# The number of parts that a process sends at once. Sending is bound by the CPU (TLS, copies), so more threads than
# cores would slow it down.
UPLOAD_THREADS = max(2, min(16, os.cpu_count() or 1))


def filesystem() -> fs.FileSystem:
    """The pyarrow file system of the server; its paths are `bucket/key`."""
    scheme, _, host = _endpoint().partition("://")
    return fs.S3FileSystem(
        endpoint_override=host or None,
        scheme=scheme or "https",
        region=_region(),
        # A wrong endpoint has to fail within seconds, while the user still watches; so waits are short and attempts
        # few.
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=30,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=3),
    )


def storage_options() -> dict[str, str]:
    """Options for delta-rs; conditional PUTs keep concurrent commits apart without a lock table."""
    # Commits are made by `delta_commit.py`. delta-rs only reads logs here and writes their checkpoints.
    options = {"aws_conditional_put": "etag", "AWS_REGION": _region(), "connect_timeout": f"{CONNECT_TIMEOUT_S}s"}
    if endpoint := _endpoint():
        options["AWS_ENDPOINT_URL"] = endpoint
        # Self-hosted servers rarely have a DNS name per bucket, and many of them speak plain HTTP inside a cluster,
        # which delta-rs refuses unless it is allowed.
        options["AWS_VIRTUAL_HOSTED_STYLE_REQUEST"] = "false"
        options["AWS_ALLOW_HTTP"] = str(endpoint.startswith("http://")).lower()
    return options


def put_if_absent(data: bytes, path: str) -> bool:
    """Write the object `bucket/key` unless it exists; False if it did.

    A PUT whose response was lost may have succeeded although its automatic retry is refused, so False alone does not
    prove that somebody else wrote the object: compare its content where that matters (see delta_commit.py).
    """
    return _put_if(data, path, {"IfNoneMatch": "*"})


def put_if_match(data: bytes, path: str, etag: str) -> bool:
    """Replace the object `bucket/key` if it still has this ETag; False if it was changed or deleted."""
    return _put_if(data, path, {"IfMatch": etag})


def _put_if(data: bytes, path: str, condition: Mapping[str, Any]) -> bool:
    # boto3 is slow to import, and stores in a local folder never need it.
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = path.partition("/")
    try:
        _client(_ClientKey.now()).put_object(Bucket=bucket, Key=key, Body=data, **condition)
    except ClientError as error:
        # Status 412 means that the condition failed, and 409 that another conditional PUT of this key was in flight.
        # With If-Match, an object that was deleted meanwhile gives the error NoSuchKey instead.
        refused = error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412)
        if refused or error.response["Error"].get("Code") == "NoSuchKey":
            return False
        raise StoreError(f"cannot write {path}: {error}") from None
    except BotoCoreError as error:
        raise StoreError(f"cannot write {path}: {error}") from None
    return True


def read_with_etag(path: str) -> tuple[bytes, str] | None:
    """Bytes and ETag of the object `bucket/key`; None if it does not exist."""
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = path.partition("/")
    try:
        found = _client(_ClientKey.now()).get_object(Bucket=bucket, Key=key)
        return found["Body"].read(), found["ETag"]
    except ClientError as error:
        if error.response["Error"].get("Code") == "NoSuchKey":
            return None
        raise StoreError(f"cannot read {path}: {error}") from None
    except BotoCoreError as error:
        raise StoreError(f"cannot read {path}: {error}") from None


def put_parts(data: memoryview, path: str) -> None:
    """Write the object `bucket/key`, a large one as a multipart upload; it becomes visible once it is complete.

    The process's uploads share one thread pool. Bodies are not signed, since hashing them takes longer than sending
    them to a nearby server; callers that need integrity keep checksums of their own, as checkpoints do.

    Raises:
        StoreError: A part cannot be written; the parts that were sent are deleted.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = path.partition("/")
    client = _uploader(_ClientKey.now())
    try:
        # A multipart upload costs at least three requests, which small objects are not worth.
        if len(data) <= PART_BYTES:
            client.put_object(Bucket=bucket, Key=key, Body=bytes(data))
        else:
            _multipart(client, bucket, key, data)
    except (BotoCoreError, ClientError) as error:
        raise StoreError(f"cannot write {path}: {error}") from None


def _multipart(client: S3Client, bucket: str, key: str, data: memoryview) -> None:
    # A multipart upload has three phases: it is created, its parts are sent in any order, and a last request joins
    # them. The object does not exist before that last request, so readers never see a part of it.
    upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]

    def send(number: int) -> CompletedPartTypeDef:
        # The slice is copied here, in the worker, so that only the parts in flight take memory twice.
        body = bytes(data[(number - 1) * PART_BYTES : number * PART_BYTES])
        part = client.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=body)
        return {"PartNumber": number, "ETag": part["ETag"]}

    # All parts are queued at once; the pool sends as many in parallel as are useful.
    sent = [_upload_pool().submit(send, number) for number in range(1, -(-len(data) // PART_BYTES) + 1)]
    try:
        parts = [future.result() for future in sent]
    except BaseException:
        # A part that arrives after the abort stays on the server and is billed. So parts that have not begun are
        # cancelled, and those in flight are waited for, before the upload is aborted.
        for future in sent:
            future.cancel()
        wait(sent)
        client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
        raise
    client.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts})


@cache
def _upload_pool() -> ThreadPoolExecutor:
    """The pool of this process for parts; it is made at the first use, so that importing starts no threads."""
    return ThreadPoolExecutor(UPLOAD_THREADS, "part")


def check_conditional_writes(root: str, name: str) -> None:
    """StoreError, within seconds, unless `bucket/prefix` takes writes and refuses a second conditional PUT."""
    bucket, _, prefix = root.partition("/")
    key = "/".join(part for part in (prefix, name) if part)
    # A plain PUT comes first, so that a missing bucket or permission is not mistaken for a lacking condition.
    with _store_errors(root):
        client = _client(_ClientKey.now())
        client.put_object(Bucket=bucket, Key=key, Body=b"1")
        try:
            is_exclusive = not put_if_absent(b"2", f"{bucket}/{key}")
        finally:
            client.delete_object(Bucket=bucket, Key=key)
    if not is_exclusive:
        raise StoreError(
            f"{_describe(root)} ignores conditional PUT (If-None-Match: *), so two writers could both commit one "
            "version and rows be lost; use a server that supports it (AWS S3, MinIO, SeaweedFS, Ceph, R2)"
        )


def prefix_exists(root: str) -> bool:
    """Whether any object exists below `bucket/prefix`; StoreError, within seconds, if the server cannot be reached."""
    bucket, _, prefix = root.partition("/")
    with _store_errors(root):
        # The slash at the end keeps `data` from matching `data2`; a prefix exists as soon as any object does.
        found = _client(_ClientKey.now()).list_objects_v2(
            Bucket=bucket, Prefix=f"{prefix}/" if prefix else "", MaxKeys=1
        )  # fmt: skip
    return bool(found.get("Contents"))


@contextmanager
def _store_errors(root: str) -> Iterator[None]:
    """Turn errors of boto3 into a StoreError that names the remedy."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code = error.response["Error"].get("Code", "")
        raise StoreError(f"{_describe(root)}: {_remedy(code, root.partition('/')[0])}") from None
    except (BotoCoreError, ValueError) as error:
        remedy = "check AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise StoreError(f"{_describe(root)} cannot be reached: {error}; {remedy}") from None


@dataclass(frozen=True)
class _ClientKey:
    """Cache key of a client: the environment that it was made in.

    Tests and long-lived workers may change endpoint or credentials; a client is reused only while they stay the same.
    """

    endpoint: str
    region: str
    credentials: tuple[str | None, ...]

    @classmethod
    def now(cls) -> _ClientKey:
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")
        return cls(_endpoint(), _region(), tuple(os.environ.get(name) for name in names))


# Making a client takes tens of milliseconds and opens a connection pool, so clients are shared by the threads of the
# process; boto3's clients allow that.
@lru_cache(maxsize=4)
def _client(key: _ClientKey) -> S3Client:
    return _connect(key, read_timeout=30, retries={"total_max_attempts": 2})


@lru_cache(maxsize=4)
def _uploader(key: _ClientKey) -> S3Client:
    # Parts are large and a retry costs one part only, so uploads wait longer and try more often than the small requests
    # of `_client`. The pool has room for every upload thread and as many small requests.
    return _connect(key, read_timeout=60, retries={"total_max_attempts": 5}, max_pool_connections=2 * UPLOAD_THREADS,
                    signing={"payload_signing_enabled": False})  # fmt: skip


def _connect(key: _ClientKey, *, signing: Mapping[str, Any] = MappingProxyType({}), **options: Any) -> S3Client:
    import boto3
    from botocore.config import Config as BotoConfig

    # Timeouts and few attempts: a wrong endpoint must fail within seconds, before a job starts.
    settings = BotoConfig(
        connect_timeout=CONNECT_TIMEOUT_S,
        # By default boto3 appends checksums as trailers to request bodies, which MinIO and SeaweedFS reject.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3=cast(Any, {"addressing_style": "path" if key.endpoint else "auto", **signing}),
        **options,
    )
    # boto3's default session would keep the credentials that it saw first, also after the environment has changed.
    session = boto3.session.Session()
    return session.client("s3", endpoint_url=key.endpoint or None, region_name=key.region, config=settings)


def _remedy(code: str, bucket: str) -> str:
    if code in ("NoSuchBucket", "404"):
        return f"there is no bucket {bucket!r}; make it first (aws s3 mb s3://{bucket})"
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "403"):
        return f"access is refused ({code}); check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and their permissions"
    return f"the server answered {code}"


def _describe(root: str) -> str:
    return f"store s3://{root}" + (f" at {_endpoint()}" if _endpoint() else "")


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def _region() -> str:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
