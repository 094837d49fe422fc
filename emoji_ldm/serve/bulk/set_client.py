"""The HTTP client of bulk sets: one method per route, every failure one line for its user."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emoji_ldm.errors import ConfigError, JobError

if TYPE_CHECKING:
    import httpx

MAX_TRIES = 5
RESTART_S = 300.0  # a service that has answered may be away for as long
LONGEST_PAUSE_S = 5.0
PART_BYTES = 8 * 2**20  # of a file
TIMEOUT_S = 120.0  # a large set is checked line by line before its id is told
RETRY_STATUSES = (429, 502, 503, 504)
REMEDY = "start one (emoji-ldm serve), or name it with --url or EMOJI_LDM_URL"


class EmojiSetClient:
    """A service at a URL, asked with a key if it needs one."""

    def __init__(self, url: str, key: str = "") -> None:
        """Nothing is sent yet. ConfigError if the URL is none, or httpx is not installed."""
        try:
            import httpx
        except ImportError:
            raise ConfigError("this command needs httpx: pip install 'emoji-ldm[serve]'") from None
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"{url!r} is no address of a service; give one such as http://127.0.0.1:8000")
        self.url, self._answered = url.rstrip("/").removesuffix("/v1"), False
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=TIMEOUT_S, trust_env=False)

    def create(self, wanted: Mapping[str, Any], upload: Path | None = None, key: str = "") -> dict[str, Any]:
        """Begin a set, of `wanted` alone or of uploaded JSONL with `wanted` as what its lines share."""
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}  # trying again cannot make a second set
        path = "/v1/emoji-sets"
        if upload is None:
            return self._json("POST", path, json=dict(wanted), headers=headers)
        with upload.open("rb") as stream:
            return self._json("POST", path, files={"file": (upload.name, stream, "application/jsonl")},
                              data={"parameters": json.dumps(dict(wanted))}, headers=headers)  # fmt: skip

    def status(self, job_id: str) -> dict[str, Any]:
        """Counts, progress, rate."""
        return self._json("GET", f"/v1/emoji-sets/{_checked_id(job_id)}")

    def listing(self, limit: int) -> list[dict[str, Any]]:
        """The newest sets."""
        found: list[dict[str, Any]] = []
        while len(found) < limit:
            after = {"after": found[-1]["id"]} if found else {}
            page = self._json("GET", "/v1/emoji-sets", params={"limit": min(100, limit - len(found)), **after})
            found += page["data"]
            if not page["has_more"]:
                break
        return found

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Draw nothing more."""
        return self._json("POST", f"/v1/emoji-sets/{_checked_id(job_id)}/cancel")

    def delete(self, job_id: str) -> None:
        """Cancel, and delete all pictures."""
        self._json("DELETE", f"/v1/emoji-sets/{_checked_id(job_id)}")

    def parquet(self, job_id: str) -> list[dict[str, Any]]:
        """The files with finished pictures: name, bytes, pictures."""
        return list(self._json("GET", f"/v1/emoji-sets/{_checked_id(job_id)}/parquet")["data"])

    def download(self, job_id: str, name: str) -> bytes:
        """The bytes of one file, asked for part by part: what a service holds for a slow client stays little."""
        data, whole = bytearray(), 1
        while len(data) < whole:
            wanted = {"Range": f"bytes={len(data)}-{len(data) + PART_BYTES - 1}"}
            part = self._send("GET", f"/v1/emoji-sets/{_checked_id(job_id)}/parquet/{name}", headers=wanted)
            data += part.content
            told = part.headers.get("content-range", "").rpartition("/")[2]
            if part.status_code != 206 or not told.isdecimal() or not part.content:
                raise JobError(f"{self.url} sends no parts of files; is it a service of emoji-ldm? {REMEDY}")
            whole = int(told)
        return bytes(data)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer = self._send(method, path, **options)
        try:
            return dict(answer.json())
        except ValueError:
            raise JobError(f"{self.url} is no service of emoji-ldm: its answer is no JSON; {REMEDY}") from None

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """The answer; after a busy one or a cut-off connection, the request is sent again some times.

        A service that has answered before is waited for while it starts again.
        """
        import httpx

        until, attempt = time.monotonic() + RESTART_S, 0
        while True:
            attempt += 1
            restarts = self._answered and time.monotonic() < until
            wait_s = min(0.5 * attempt, LONGEST_PAUSE_S)
            try:
                _rewind(options)
                answer = self._http.request(method, path, **options)
            except httpx.ConnectError as error:
                if not restarts:
                    raise JobError(f"no service answers at {self.url} ({error}); {REMEDY}") from None
            except httpx.TransportError as error:
                if attempt >= MAX_TRIES and not restarts:
                    raise JobError(f"the service at {self.url} does not answer ({error}); try again later") from None
            else:
                if answer.status_code not in RETRY_STATUSES:
                    self._answered = True
                if answer.status_code not in RETRY_STATUSES or (attempt >= MAX_TRIES and not restarts):
                    return _checked(answer, self.url)
                wait_s = _retry_after_s(answer) or wait_s
            time.sleep(wait_s)


@contextmanager
def open_client(url: str, key: str) -> Iterator[EmojiSetClient]:
    """A client that is closed at the end."""
    client = EmojiSetClient(url, key)
    try:
        yield client
    finally:
        client.close()


def _checked(answer: httpx.Response, url: str) -> httpx.Response:
    if answer.is_success:
        return answer
    try:
        message = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        raise JobError(f"{url} answers {answer.status_code}; is it a service of emoji-ldm? {REMEDY}") from None
    match answer.status_code:
        case 401:
            raise ConfigError(f"the service refuses the key ({message}); give yours in EMOJI_LDM_API_KEY")
        case 400 | 409 | 413 | 422:
            raise ConfigError(message)
    raise JobError(message)


def _retry_after_s(answer: httpx.Response) -> float:
    """The seconds that the service asks to wait, at most a minute; 0 if it does not say."""
    told = answer.headers.get("retry-after", "")
    return min(float(told), 60.0) if told.isdecimal() else 0.0


def _rewind(options: Mapping[str, Any]) -> None:
    for _, stream, _ in options.get("files", {}).values():
        stream.seek(0)


def _checked_id(job_id: str) -> str:
    if not job_id.replace("_", "").isalnum():
        raise ConfigError(f"{job_id!r} is no id of a set; `emoji-ldm sets list` shows yours")
    return job_id
