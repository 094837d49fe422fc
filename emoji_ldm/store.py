"""A store is one URI: a local folder or `s3://bucket/prefix`. Only this file knows endpoints and credentials.

S3 settings come from the usual environment: AWS_ENDPOINT_URL (MinIO, SeaweedFS, ...),
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION. With an
endpoint set, addresses are path style (`http://host:port/bucket/key`).
"""

from __future__ import annotations

import difflib
import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pyarrow import fs

from emoji_ldm.errors import DatasetError, StoreError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONNECT_TIMEOUT_S = 5


@dataclass(frozen=True)
class Store:
    """Files and tables below one URI; cheap to build, picklable, the same on every machine."""

    uri: str
    branch: str = ""  # whose tables are meant; empty is the main line

    def __post_init__(self) -> None:
        """Make a local folder absolute, so that workers with another directory see the same store."""
        if not self.uri.strip():
            raise StoreError("the store is empty; give a folder or s3://bucket/prefix (store=...)")
        scheme, separator, rest = self.uri.partition("://")
        if not separator:
            object.__setattr__(self, "uri", str(Path(self.uri).expanduser().absolute()))
        elif scheme != "s3" or not rest.strip("/"):
            raise StoreError(f"store {self.uri!r} is neither a folder nor s3://bucket/prefix")
        else:
            object.__setattr__(self, "uri", self.uri.rstrip("/"))

    @property
    def is_s3(self) -> bool:
        """True for `s3://` stores."""
        return self.uri.startswith("s3://")

    @property
    def root(self) -> str:
        """Path of the store inside `filesystem`: an absolute folder or `bucket/prefix`."""
        return self.uri.removeprefix("s3://")

    @cached_property
    def filesystem(self) -> fs.FileSystem:
        """The pyarrow filesystem that holds the store."""
        if not self.is_s3:
            return fs.LocalFileSystem()
        endpoint = _endpoint()
        scheme, _, host = endpoint.partition("://")
        return fs.S3FileSystem(
            endpoint_override=host or None,
            scheme=scheme or "https",
            region=_region(),
            connect_timeout=CONNECT_TIMEOUT_S,
            request_timeout=30,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=3),
        )

    def path(self, *parts: str) -> str:
        """Path inside `filesystem` of something below the store."""
        return "/".join((self.root, *parts))

    def table_path(self, name: str) -> str:
        """Folder of a table below the store."""
        return f"{self.branch_folder}/tables/{name}" if self.branch else f"tables/{name}"

    @cached_property
    def branch_folder(self) -> str:
        """Folder of the branch below the store; DatasetError if there is no such branch."""
        known = [name.removesuffix(".json") for name in self.list("refs", "branches")]
        if self.branch not in known:
            close = difflib.get_close_matches(self.branch, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"branches: {', '.join(known) or 'none'}"
            raise DatasetError(f"there is no branch {self.branch!r} in {self.uri} ({hint})")
        return str(json.loads(self.read("refs", "branches", f"{self.branch}.json"))["folder"])

    def table_uri(self, name: str) -> str:
        """URI of a Delta table, as delta-rs takes it."""
        return f"{self.uri}/{self.table_path(name)}"

    def storage_options(self) -> dict[str, str]:
        """Options for delta-rs: conditional PUT keeps concurrent commits apart without a lock table."""
        if not self.is_s3:
            return {}
        options = {"aws_conditional_put": "etag", "AWS_REGION": _region(), "connect_timeout": f"{CONNECT_TIMEOUT_S}s"}
        if endpoint := _endpoint():
            options["AWS_ENDPOINT_URL"] = endpoint
            options["AWS_VIRTUAL_HOSTED_STYLE_REQUEST"] = "false"
            options["AWS_ALLOW_HTTP"] = str(endpoint.startswith("http://")).lower()
        return options

    def exists(self, *parts: str) -> bool:
        """Whether a file lies at this path."""
        return bool(self.filesystem.get_file_info(self.path(*parts)).type == fs.FileType.File)

    def read(self, *parts: str) -> bytes:
        """The bytes of a file; StoreError if it is not there."""
        try:
            with self.filesystem.open_input_stream(self.path(*parts)) as stream:
                return bytes(stream.read())
        except OSError as error:
            raise StoreError(f"cannot read {'/'.join(parts)} in {self.uri}: {error}") from None

    def write(self, data: bytes, *parts: str) -> None:
        """Write a file whole, replacing what was there."""
        path = self.path(*parts)
        try:
            self._make_parent(path)
            with self.filesystem.open_output_stream(path) as stream:
                stream.write(data)
        except OSError as error:
            raise StoreError(f"cannot write {'/'.join(parts)} in {self.uri}: {error}") from None

    def write_once(self, data: bytes, *parts: str) -> bool:
        """Write a file only if none is there, atomically; False if one was (a conditional PUT on S3)."""
        path = self.path(*parts)
        if self.is_s3:
            return self._put_if_absent(data, path)
        self._make_parent(path)
        handle, temporary = tempfile.mkstemp(dir=Path(path).parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            Path(temporary).unlink()
        return True

    def list(self, *parts: str, recursive: bool = False) -> list[str]:
        """Paths below a folder, relative to it, sorted; empty if the folder is not there."""
        folder = self.path(*parts)
        selector = fs.FileSelector(folder, allow_not_found=True, recursive=recursive)
        infos = self.filesystem.get_file_info(selector)
        return sorted(info.path[len(folder) :].lstrip("/") for info in infos)

    def upload(self, local: Path, *parts: str) -> None:
        """Copy a local folder below the store."""
        for path in _files(local):
            self.write(path.read_bytes(), *parts, path.relative_to(local).as_posix())

    def download(self, local: Path, *parts: str) -> None:
        """Copy a folder of the store to a local one."""
        for name in self.list(*parts, recursive=True):
            if self.exists(*parts, name):
                target = local / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(self.read(*parts, name))

    def delete(self, *parts: str) -> None:
        """Delete a folder of the store with all in it; nothing happens if it is not there."""
        if self.filesystem.get_file_info(self.path(*parts)).type == fs.FileType.Directory:
            self.filesystem.delete_dir(self.path(*parts))

    def remove(self, *parts: str) -> None:
        """Delete one file of the store; nothing happens if it is not there."""
        if self.exists(*parts):
            self.filesystem.delete_file(self.path(*parts))

    def check(self) -> None:
        """Raise StoreError, within seconds, if the store cannot be reached or written, or lets writers overtake.

        Two writers of one version are kept apart by a write that fails if the file is there: it is tried here, as
        some S3 servers take the condition and ignore it. DatasetError if the branch is not there.
        """
        name = f".write-check-{uuid.uuid4().hex}"
        if self.is_s3:
            self._check_s3(name)
        else:
            self._check_folder(name)
        if self.branch:
            _ = self.branch_folder

    def _check_folder(self, name: str) -> None:
        try:
            held = self.write_once(b"1", name) and not self.write_once(b"2", name)
            self.remove(name)
        except OSError as error:
            raise StoreError(
                f"store {self.root} is not writable ({error.strerror}); choose another with store=..."
            ) from None
        if not held:
            raise StoreError(
                f"store {self.root} does not keep writers apart; choose another file system with store=..."
            )

    def _make_parent(self, path: str) -> None:
        if not self.is_s3:
            Path(path).parent.mkdir(parents=True, exist_ok=True)

    def _put_if_absent(self, data: bytes, path: str) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError

        bucket, _, key = path.partition("/")
        try:
            _client(_Access.now()).put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412):
                return False
            raise StoreError(f"cannot write {path}: {error}") from None
        except BotoCoreError as error:
            raise StoreError(f"cannot write {path}: {error}") from None
        return True

    def _check_s3(self, name: str) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        bucket, _, prefix = self.root.partition("/")
        key = "/".join(part for part in (prefix, name) if part)
        where = f"store {self.uri}" + (f" at {_endpoint()}" if _endpoint() else "")
        try:
            client = _client(_Access.now())
            client.put_object(Bucket=bucket, Key=key, Body=b"1")
            try:
                held = not self._put_if_absent(b"2", f"{bucket}/{key}")
            finally:
                client.delete_object(Bucket=bucket, Key=key)
        except ClientError as error:
            raise StoreError(f"{where}: {_remedy(error.response['Error'].get('Code', ''), bucket)}") from None
        except (BotoCoreError, ValueError) as error:
            remedy = "check AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            raise StoreError(f"{where} cannot be reached: {error}; {remedy}") from None
        if not held:
            raise StoreError(
                f"{where} ignores conditional PUT (If-None-Match: *), so two writers could both win one version and "
                "rows be lost; use a server that has it (AWS S3, MinIO, SeaweedFS, Ceph, R2)"
            )


@dataclass(frozen=True)
class _Access:
    """What the environment says now; a client is kept for as long as it says the same."""

    endpoint: str
    region: str
    credentials: tuple[str | None, ...]

    @classmethod
    def now(cls) -> _Access:
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")
        return cls(_endpoint(), _region(), tuple(os.environ.get(name) for name in names))


@lru_cache(maxsize=4)
def _client(access: _Access) -> S3Client:
    import boto3
    from botocore.config import Config as BotoConfig

    settings = BotoConfig(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=30,
        retries={"total_max_attempts": 2},
        request_checksum_calculation="when_required",  # MinIO and SeaweedFS refuse newer defaults
        response_checksum_validation="when_required",
        s3={"addressing_style": "path" if access.endpoint else "auto"},
    )
    session = boto3.session.Session()  # the default one would keep the credentials it first saw
    return session.client("s3", endpoint_url=access.endpoint or None, region_name=access.region, config=settings)


def _remedy(code: str, bucket: str) -> str:
    if code in ("NoSuchBucket", "404"):
        return f"there is no bucket {bucket!r}; make it first (aws s3 mb s3://{bucket})"
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "403"):
        return f"access is refused ({code}); check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and their right to write"
    return f"the server answers {code}"


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def _region() -> str:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
