"""Every refusal and failure as an answer in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from emoji_ldm.errors import ConfigError, DatasetError, StoreError
from emoji_ldm.serve.backend import Overloaded, TaskTimeout

LOG = logging.getLogger("emoji_ldm.serve")
RETRY_AFTER_S = 5  # after a time-out or a store that cannot be reached
MAX_MESSAGE = 1000  # characters
ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class RequestError(Exception):
    """A request that is answered with an error; `str()` is the message."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Keep what the answer says."""
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The body of the answer."""
        kind = "server_error" if self.status >= 500 else ERROR_TYPES.get(self.status, "invalid_request_error")
        param = self.param if self.param is None else _plain(self.param)
        return {"error": {"message": _plain(str(self)), "type": kind, "param": param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse(self.body(), self.status, self.headers)


def to_request_error(error: Exception) -> RequestError:
    """What a client is told of an error; of one that nobody foresaw, nothing but that it happened."""
    match error:
        case RequestError():
            return error
        case Overloaded():
            return _later(
                "more is asked of this service than it can draw in time", 503, "overloaded", error.retry_after_s
            )
        case TaskTimeout() | TimeoutError():
            return _later("the image was not drawn in time", 504, "timeout", RETRY_AFTER_S)
        case ConfigError():
            return RequestError(str(error))
        case StoreError() | DatasetError():  # what a table of a job lacks was there: the store does not give it
            return _later("the store cannot be reached or read", 503, "store_unreachable", RETRY_AFTER_S)
    # A draw that no replica survived would kill more of them: clients shall not try it again by themselves.
    headers = {"x-should-retry": "false"}
    return RequestError("the service failed at this; its log says why", status=500, code="crash", headers=headers)


def add_error_handlers(api: FastAPI) -> None:
    """Make an application answer all errors so."""
    for kind in (RequestError, Overloaded, TaskTimeout, TimeoutError, ConfigError, DatasetError, StoreError):
        api.add_exception_handler(kind, _answer)
    api.add_exception_handler(HTTPException, _answer_http)
    api.add_exception_handler(RequestValidationError, _answer_validation)


async def _answer(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, StoreError | DatasetError):
        LOG.error("request %s: %s", request.state.id, error)
    return to_request_error(error).response()


async def _answer_http(request: Request, error: Exception) -> JSONResponse:
    """No such path or method, or a form that cannot be read."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    if error.status_code in (404, 405):
        message += f"; this service answers {', '.join(_known(request.app))} (see /docs)"
    code = {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code)
    return RequestError(message, status=error.status_code, code=code, headers=error.headers).response()


async def _answer_validation(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problem = error.errors()[0]
    field = str(problem["loc"][-1])
    return RequestError(f"{field}={problem.get('input')!r} is refused: {problem['msg']}", param=field).response()


def _known(api: FastAPI) -> list[str]:
    return [f"{method.upper()} {path}" for path, methods in api.openapi()["paths"].items() for method in methods]


def _plain(text: str) -> str:
    """The text, for a client that may have sent megabytes, or half of a surrogate pair, which UTF-8 cannot write."""
    return text[:MAX_MESSAGE].encode(errors="backslashreplace").decode()


def _later(message: str, status: int, code: str, retry_after_s: float) -> RequestError:
    seconds = max(1, math.ceil(retry_after_s))
    headers = {"Retry-After": str(seconds)}
    return RequestError(f"{message}; try again in {seconds} s", status=status, code=code, headers=headers)
