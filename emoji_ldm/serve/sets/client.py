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

TRIES = 5
TIMEOUT_S = 120.0  # a large set is checked line by line before its id is told
LATER = (429, 502, 503, 504)
REMEDY = "start one (emoji-ldm serve), or name it with --url or EMOJI_LDM_URL"


class Client:
    """A service at a URL, asked with a key if it needs one."""

    def __init__(self, url: str, key: str = "") -> None:
        """Nothing is sent yet. ConfigError if the URL is none, or httpx is not installed."""
        try:
            import httpx
        except ImportError:
            raise ConfigError("this command needs httpx: pip install 'emoji-ldm[serve]'") from None
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"{url!r} is no address of a service; give one such as http://127.0.0.1:8000")
        self.url = url.rstrip("/").removesuffix("/v1")
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
        return self._json("GET", f"/v1/emoji-sets/{_name(job_id)}")

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
        return self._json("POST", f"/v1/emoji-sets/{_name(job_id)}/cancel")

    def delete(self, job_id: str) -> None:
        """Cancel, and delete all pictures."""
        self._json("DELETE", f"/v1/emoji-sets/{_name(job_id)}")

    def parquet(self, job_id: str) -> list[dict[str, Any]]:
        """The files with finished pictures: name, bytes, pictures."""
        return list(self._json("GET", f"/v1/emoji-sets/{_name(job_id)}/parquet")["data"])

    def download(self, job_id: str, name: str) -> bytes:
        """The bytes of one file."""
        return self._send("GET", f"/v1/emoji-sets/{_name(job_id)}/parquet/{name}").content

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
        """The answer; after a busy one or a cut-off connection, the request is sent again some times."""
        import httpx

        for attempt in range(1, TRIES + 1):
            try:
                _rewind(options)
                answer = self._http.request(method, path, **options)
            except httpx.ConnectError as error:
                raise JobError(f"no service answers at {self.url} ({error}); {REMEDY}") from None
            except httpx.TransportError as error:
                if attempt == TRIES:
                    raise JobError(f"the service at {self.url} does not answer ({error}); try again later") from None
                wait_s = 0.5 * attempt
            else:
                if answer.status_code not in LATER or attempt == TRIES:
                    return _checked(answer, self.url)
                wait_s = _wait_s(answer, attempt)
            time.sleep(wait_s)
        raise AssertionError("the loop returns or raises")


@contextmanager
def connected(url: str, key: str) -> Iterator[Client]:
    """A client that is closed at the end."""
    client = Client(url, key)
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


def _wait_s(answer: httpx.Response, attempt: int) -> float:
    told = answer.headers.get("retry-after", "")
    return min(float(told), 60.0) if told.isdecimal() else 0.5 * attempt


def _rewind(options: Mapping[str, Any]) -> None:
    for _, stream, _ in options.get("files", {}).values():
        stream.seek(0)


def _name(job_id: str) -> str:
    if not job_id.replace("_", "").isalnum():
        raise ConfigError(f"{job_id!r} is no id of a set; `emoji-ldm sets list` shows yours")
    return job_id
