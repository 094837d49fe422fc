"""Stores on S3: the endpoint and credentials that the environment names, and the requests that file systems lack.

S3 settings come from the usual environment: AWS_ENDPOINT_URL (MinIO, SeaweedFS, ...),
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION. With an
endpoint set, addresses are path style (`http://host:port/bucket/key`).
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
PART_BYTES = 2**23  # bytes of a part of a large object; S3 takes 10,000 of them
UPLOAD_THREADS = max(
    2, min(16, os.cpu_count() or 1)
)  # parts that a process sends at once: more than cores slow each other


def filesystem() -> fs.FileSystem:
    """The pyarrow filesystem of the server; paths in it are `bucket/key`."""
    scheme, _, host = _endpoint().partition("://")
    return fs.S3FileSystem(
        endpoint_override=host or None,
        scheme=scheme or "https",
        region=_region(),
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=30,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=3),
    )


def storage_options() -> dict[str, str]:
    """Options for delta-rs: conditional PUT keeps concurrent commits apart without a lock table."""
    options = {"aws_conditional_put": "etag", "AWS_REGION": _region(), "connect_timeout": f"{CONNECT_TIMEOUT_S}s"}
    if endpoint := _endpoint():
        options["AWS_ENDPOINT_URL"] = endpoint
        options["AWS_VIRTUAL_HOSTED_STYLE_REQUEST"] = "false"
        options["AWS_ALLOW_HTTP"] = str(endpoint.startswith("http://")).lower()
    return options


def put_if_absent(data: bytes, path: str) -> bool:
    """Write an object of this `bucket/key` by a conditional PUT; False if one was there."""
    return _put_if(data, path, {"IfNoneMatch": "*"})


def put_if_match(data: bytes, path: str, tag: str) -> bool:
    """Replace an object of this `bucket/key` that `read_tagged` gave; False if it is another one by now, or gone."""
    return _put_if(data, path, {"IfMatch": tag})


def _put_if(data: bytes, path: str, condition: Mapping[str, Any]) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = path.partition("/")
    try:
        _client(_ClientKey.now()).put_object(Bucket=bucket, Key=key, Body=data, **condition)
    except ClientError as error:
        refused = error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412)
        if refused or error.response["Error"].get("Code") == "NoSuchKey":
            return False
        raise StoreError(f"cannot write {path}: {error}") from None
    except BotoCoreError as error:
        raise StoreError(f"cannot write {path}: {error}") from None
    return True


def read_with_etag(path: str) -> tuple[bytes, str] | None:
    """The bytes of an object of this `bucket/key` and what `put_if_same` knows it by; None if it is not there."""
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
    """Write an object of this `bucket/key` in parts, in turns with others; nothing is there until all of them are.

    Bodies are not signed: hashing them costs more time than sending them to a near server. Who writes large files
    keeps checksums of his own.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = path.partition("/")
    client = _uploader(_ClientKey.now())
    try:
        if len(data) <= PART_BYTES:
            client.put_object(Bucket=bucket, Key=key, Body=bytes(data))
        else:
            _multipart(client, bucket, key, data)
    except (BotoCoreError, ClientError) as error:
        raise StoreError(f"cannot write {path}: {error}") from None


def _multipart(client: S3Client, bucket: str, key: str, data: memoryview) -> None:
    upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]

    def send(number: int) -> CompletedPartTypeDef:
        body = bytes(data[(number - 1) * PART_BYTES : number * PART_BYTES])
        part = client.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=body)
        return {"PartNumber": number, "ETag": part["ETag"]}

    sent = [_upload_pool().submit(send, number) for number in range(1, -(-len(data) // PART_BYTES) + 1)]
    try:
        parts = [future.result() for future in sent]
    except BaseException:
        for future in sent:
            future.cancel()
        wait(sent)
        client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
        raise
    client.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts})


@cache
def _upload_pool() -> ThreadPoolExecutor:
    """Of this process, for all of its uploads."""
    return ThreadPoolExecutor(UPLOAD_THREADS, "part")


def check_writable(root: str, name: str) -> None:
    """Raise StoreError, within seconds, unless objects can be written below `root`, and one of two writers is told."""
    bucket, _, prefix = root.partition("/")
    key = "/".join(part for part in (prefix, name) if part)
    with _store_errors(root):
        client = _client(_ClientKey.now())
        client.put_object(Bucket=bucket, Key=key, Body=b"1")
        try:
            held = not put_if_absent(b"2", f"{bucket}/{key}")
        finally:
            client.delete_object(Bucket=bucket, Key=key)
    if not held:
        raise StoreError(
            f"{_describe(root)} ignores conditional PUT (If-None-Match: *), so two writers could both win one version and "
            "rows be lost; use a server that has it (AWS S3, MinIO, SeaweedFS, Ceph, R2)"
        )


def prefix_exists(root: str) -> bool:
    """Whether there is an object below `root`; StoreError, within seconds, if that cannot be asked."""
    bucket, _, prefix = root.partition("/")
    with _store_errors(root):
        found = _client(_ClientKey.now()).list_objects_v2(
            Bucket=bucket, Prefix=f"{prefix}/" if prefix else "", MaxKeys=1
        )  # fmt: skip
    return bool(found.get("Contents"))


@contextmanager
def _store_errors(root: str) -> Iterator[None]:
    """Errors of boto3 as a StoreError with its remedy."""
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
    """What the environment says now; a client is kept for as long as it says the same."""

    endpoint: str
    region: str
    credentials: tuple[str | None, ...]

    @classmethod
    def now(cls) -> _ClientKey:
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")
        return cls(_endpoint(), _region(), tuple(os.environ.get(name) for name in names))


@lru_cache(maxsize=4)
def _client(access: _ClientKey) -> S3Client:
    return _connect(access, read_timeout=30, retries={"total_max_attempts": 2})


@lru_cache(maxsize=4)
def _uploader(access: _ClientKey) -> S3Client:
    return _connect(access, read_timeout=60, retries={"total_max_attempts": 5}, max_pool_connections=2 * UPLOAD_THREADS,
                    signing={"payload_signing_enabled": False})  # fmt: skip


def _connect(access: _ClientKey, *, signing: Mapping[str, Any] = MappingProxyType({}), **options: Any) -> S3Client:
    import boto3
    from botocore.config import Config as BotoConfig

    settings = BotoConfig(
        connect_timeout=CONNECT_TIMEOUT_S,
        request_checksum_calculation="when_required",  # MinIO and SeaweedFS refuse newer defaults
        response_checksum_validation="when_required",
        s3=cast(Any, {"addressing_style": "path" if access.endpoint else "auto", **signing}),
        **options,
    )
    session = boto3.session.Session()  # the default one would keep the credentials it first saw
    return session.client("s3", endpoint_url=access.endpoint or None, region_name=access.region, config=settings)


def _remedy(code: str, bucket: str) -> str:
    if code in ("NoSuchBucket", "404"):
        return f"there is no bucket {bucket!r}; make it first (aws s3 mb s3://{bucket})"
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "403"):
        return f"access is refused ({code}); check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what they may do"
    return f"the server answers {code}"


def _describe(root: str) -> str:
    return f"store s3://{root}" + (f" at {_endpoint()}" if _endpoint() else "")


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def _region() -> str:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
