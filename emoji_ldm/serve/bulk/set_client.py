"""HTTP client of the emoji set routes: one method per route, every failure a one-line error for the user."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tenacity import RetryCallState, Retrying, retry_if_exception_type, retry_if_result

from emoji_ldm.errors import ConfigError, JobError

if TYPE_CHECKING:  # of the extra `serve`, which the command line may lack
    import httpx

MAX_TRIES = 5
RESTART_S = 300.0  # how long a service that has answered before may be away
LONGEST_PAUSE_S = 5.0
PART_BYTES = 8 * 2**20  # of a file, per request
# Creation is the slowest request: all lines are validated and written before the response.
TIMEOUT_S = 120.0  # the service validates all lines of a set before it answers
RETRY_STATUSES = (429, 502, 503, 504)
REMEDY = "start one (emoji-ldm serve), or name it with --url or EMOJI_LDM_URL"


class EmojiSetClient:
    """A client of one service.

    Requests are retried while the service is overloaded, and for `RESTART_S` while it restarts. Creations carry an
    idempotency key, so a retry after a lost response creates no second set.
    """

    def __init__(self, url: str, key: str = "") -> None:
        """Prepare a client; nothing is sent yet. Raises ConfigError if httpx is missing or this is not a URL."""
        # Imported late: the command line starts faster, and other commands work without the extra `serve`.
        try:
            import httpx
        except ImportError:
            raise ConfigError("this command needs httpx: pip install 'emoji-ldm[serve]'") from None
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"{url!r} is not the URL of a service; give one such as http://127.0.0.1:8000")
        # Users copy the URL from OpenAI clients, where it ends in /v1.
        self.url, self._has_answered = url.rstrip("/").removesuffix("/v1"), False
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # trust_env=False: proxies of the environment are for the internet, while a service is usually on the same
        # machine or network.
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=TIMEOUT_S, trust_env=False)
        self._retry_on = retry_if_exception_type(httpx.TransportError) | retry_if_result(_is_busy)
        self._connect_error = httpx.ConnectError

    def create(self, body: Mapping[str, Any], upload: Path | None = None, key: str = "") -> dict[str, Any]:
        """Create a set and return its status.

        Args:
            body: Fields of the request; with `upload`, the parameters that its lines share.
            upload: JSONL file with one prompt per line.
            key: Idempotency key; default: a random one.
        """
        # A creation whose response was lost may have succeeded. With the same key, the retry returns that set.
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        path = "/v1/emoji-sets"
        if upload is None:
            return self._json("POST", path, json=dict(body), headers=headers)
        with upload.open("rb") as stream:
            return self._json("POST", path, files={"file": (upload.name, stream, "application/jsonl")},
                              data={"parameters": json.dumps(dict(body))}, headers=headers)  # fmt: skip

    def status(self, job_id: str) -> dict[str, Any]:
        """Return counts, progress and rate of a set."""
        return self._json("GET", f"/v1/emoji-sets/{_checked_id(job_id)}")

    def listing(self, limit: int) -> list[dict[str, Any]]:
        """Return the newest sets."""
        found: list[dict[str, Any]] = []
        while len(found) < limit:
            after = {"after": found[-1]["id"]} if found else {}
            page = self._json("GET", "/v1/emoji-sets", params={"limit": min(100, limit - len(found)), **after})
            found += page["data"]
            if not page["has_more"]:
                break
        return found

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Stop a set, keep its finished images, and return its status."""
        return self._json("POST", f"/v1/emoji-sets/{_checked_id(job_id)}/cancel")

    def delete(self, job_id: str) -> None:
        """Stop a set and delete all its images."""
        self._json("DELETE", f"/v1/emoji-sets/{_checked_id(job_id)}")

    def parquet(self, job_id: str) -> list[dict[str, Any]]:
        """Return the Parquet files of finished images: name, bytes, pictures."""
        return list(self._json("GET", f"/v1/emoji-sets/{_checked_id(job_id)}/parquet")["data"])

    def download(self, job_id: str, name: str) -> bytes:
        """Return the bytes of one Parquet file.

        The file is fetched in ranges of `PART_BYTES`: the service holds in memory what a slow client has not taken yet.
        """
        data, size = bytearray(), 1
        while len(data) < size:
            headers = {"Range": f"bytes={len(data)}-{len(data) + PART_BYTES - 1}"}
            part = self._send("GET", f"/v1/emoji-sets/{_checked_id(job_id)}/parquet/{name}", headers=headers)
            data += part.content
            total = part.headers.get("content-range", "").rpartition("/")[2]
            # A proxy or another server may ignore Range and send the file from its start: appended, that would
            # corrupt it.
            if part.status_code != 206 or not total.isdecimal() or not part.content:
                raise JobError(f"{self.url} does not send ranges of files; is it an emoji-ldm service? {REMEDY}")
            size = int(total)
        return bytes(data)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        response = self._send(method, path, **options)
        try:
            return dict(response.json())
        except ValueError:
            raise JobError(f"{self.url} is not an emoji-ldm service: its response is not JSON; {REMEDY}") from None

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request and return the successful response.

        A refused connection is not retried, so that a wrong URL is reported at once, unless the service has answered
        before: then it is restarting, and waited for.
        """
        deadline = time.monotonic() + RESTART_S

        def give_up(state: RetryCallState) -> bool:
            if self._has_answered and time.monotonic() < deadline:
                return False
            assert state.outcome is not None
            return isinstance(state.outcome.exception(), self._connect_error) or state.attempt_number >= MAX_TRIES

        retrying = Retrying(retry=self._retry_on, stop=give_up, wait=_pause_s, retry_error_callback=self._last_outcome)
        return _checked(retrying(self._send_once, method, path, options), self.url)

    def _send_once(self, method: str, path: str, options: dict[str, Any]) -> httpx.Response:
        for _, stream, _ in options.get("files", {}).values():
            # An earlier try may have read the file to its end; sent again as it is, the body would be empty.
            stream.seek(0)
        response = self._http.request(method, path, **options)
        self._has_answered = self._has_answered or not _is_busy(response)
        return response

    def _last_outcome(self, state: RetryCallState) -> httpx.Response:
        """Return the last response, or raise JobError if the last try got none."""
        assert state.outcome is not None
        error = state.outcome.exception()
        if isinstance(error, self._connect_error):
            raise JobError(f"no service answers at {self.url} ({error}); {REMEDY}") from None
        if error is not None:
            raise JobError(f"the service at {self.url} does not answer ({error}); try again later") from None
        response: httpx.Response = state.outcome.result()
        return response


@contextmanager
def open_client(url: str, key: str) -> Iterator[EmojiSetClient]:
    """Open a client for the duration of the block."""
    client = EmojiSetClient(url, key)
    try:
        yield client
    finally:
        client.close()


def _is_busy(response: httpx.Response) -> bool:
    return response.status_code in RETRY_STATUSES


def _pause_s(state: RetryCallState) -> float:
    """Return the pause before the next try: what `Retry-After` says, at most a minute, else linear backoff."""
    assert state.outcome is not None
    retry_after = "" if state.outcome.failed else state.outcome.result().headers.get("retry-after", "")
    # Retry-After may also be a date (RFC 9110, section 10.2.3), which our service never sends.
    asked_s = min(float(retry_after), 60.0) if retry_after.isdecimal() else 0.0
    return asked_s or min(0.5 * state.attempt_number, LONGEST_PAUSE_S)


def _checked(response: httpx.Response, url: str) -> httpx.Response:
    """Return a successful response; else raise what the user did wrong as ConfigError, and the rest as JobError."""
    if response.is_success:
        return response
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        raise JobError(f"{url} answers {response.status_code}; is it an emoji-ldm service? {REMEDY}") from None
    match response.status_code:
        case 401:
            raise ConfigError(f"the service refuses the key ({message}); give yours in EMOJI_LDM_API_KEY")
        case 400 | 409 | 413 | 422:
            raise ConfigError(message)
    raise JobError(message)


def _checked_id(job_id: str) -> str:
    """Return an id that is safe in a URL path."""
    if not job_id.replace("_", "").isalnum():
        raise ConfigError(f"{job_id!r} is not the id of a set; `emoji-ldm sets list` shows yours")
    return job_id
