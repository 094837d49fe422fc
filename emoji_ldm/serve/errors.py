"""Error responses in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

Code below the HTTP layer raises domain errors (`emoji_ldm.errors`, `backend`); routes raise `RequestError`. This module
is the only one that maps domain errors to status codes.
"""

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

from emoji_ldm.errors import (
    BulkJobError,
    ConfigError,
    DatasetError,
    EmptyUploadError,
    JobNotFoundError,
    StoreError,
    UploadNotFoundError,
)
from emoji_ldm.serve.backend import Overloaded, TaskTimeout

LOG = logging.getLogger("emoji_ldm.serve")
# Long enough for a restarted replica or store to be back, short enough that clients do not give up.
RETRY_AFTER_S = 5  # after a timeout, or while the store cannot be reached
# Messages quote the request. A client that sent a megabyte of prompt does not want it back.
MAX_MESSAGE = 1000  # characters
ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
DOMAIN_ERRORS = (Overloaded, TaskTimeout, TimeoutError, BulkJobError, ConfigError, DatasetError, StoreError)


class RequestError(Exception):
    """A request that is answered with an error response; `str()` is the message."""

    line: int | None = None  # line of the uploaded JSONL that caused the error, from 1

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Return the JSON body of the response."""
        kind = "server_error" if self.status >= 500 else ERROR_TYPES.get(self.status, "invalid_request_error")
        param = self.param if self.param is None else _printable(self.param)
        return {"error": {"message": _printable(str(self)), "type": kind, "param": param, "code": self.code}}

    def response(self) -> JSONResponse:
        """Return the response."""
        return JSONResponse(self.body(), self.status, self.headers)


def to_request_error(error: Exception) -> RequestError:
    """Map an exception to the error that the client sees; unexpected ones reveal nothing but that they happened."""
    match error:
        case RequestError():
            return error
        case Overloaded():
            return _retryable("the service is overloaded", 503, "overloaded", error.retry_after_s)
        # TimeoutError is raised here in the ingress, when the backend did not even report the timeout.
        case TaskTimeout() | TimeoutError():
            return _retryable("the image was not generated in time", 504, "timeout", RETRY_AFTER_S)
        case JobNotFoundError():
            return RequestError(str(error), status=404, param="id", code="not_found")
        case UploadNotFoundError():
            return RequestError(str(error), status=404, param="file_id", code="not_found")
        case EmptyUploadError():
            return RequestError(str(error), param="file", code="empty_file")
        case ConfigError():
            return RequestError(str(error))
        case StoreError() | DatasetError():
            # A job's table is complete once the job exists, so a DatasetError too means that the store is failing.
            return _retryable("the store cannot be reached or read", 503, "store_unreachable", RETRY_AFTER_S)
    # OpenAI's clients retry a 500 by default. A request that crashes replicas would then crash more of them.
    headers = {"x-should-retry": "false"}
    return RequestError("internal error; see the service's log", status=500, code="crash", headers=headers)


def add_error_handlers(api: FastAPI) -> None:
    """Make the application answer all errors in this shape."""
    # Starlette looks handlers up along the method resolution order, so one for BulkJobError serves its subclasses.
    # There is none for Exception: RequestMiddleware handles those, and logs them with the request id.
    for kind in (RequestError, *DOMAIN_ERRORS):
        api.add_exception_handler(kind, _handle_error)
    api.add_exception_handler(HTTPException, _handle_http_exception)
    api.add_exception_handler(RequestValidationError, _handle_validation_error)


async def _handle_error(request: Request, error: Exception) -> JSONResponse:
    # The response is generic, since paths and endpoints are not meant for clients. Operators find the details here.
    if isinstance(error, StoreError | DatasetError):
        LOG.error("request %s: %s", request.state.id, error)
    return to_request_error(error).response()


async def _handle_http_exception(request: Request, error: Exception) -> JSONResponse:
    """Answer an unknown path or method, or a form that Starlette cannot parse."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    if error.status_code in (404, 405):
        message += f"; this service answers {', '.join(_operations(request.app))} (see /docs)"
    code = {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code)
    return RequestError(message, status=error.status_code, code=code, headers=error.headers).response()


async def _handle_validation_error(_: Request, error: Exception) -> JSONResponse:
    """Answer a query parameter that FastAPI refuses."""
    assert isinstance(error, RequestValidationError)
    # OpenAI names one parameter per error, so the first problem is reported.
    problem = error.errors()[0]
    field = str(problem["loc"][-1])
    return RequestError(f"{field}={problem.get('input')!r} is refused: {problem['msg']}", param=field).response()


def _operations(api: FastAPI) -> list[str]:
    return [f"{method.upper()} {path}" for path, methods in api.openapi()["paths"].items() for method in methods]


def _printable(text: str) -> str:
    """Shorten client-supplied text and escape lone surrogates, which UTF-8 cannot encode."""
    return text[:MAX_MESSAGE].encode(errors="backslashreplace").decode()


def _retryable(message: str, status: int, code: str, retry_after_s: float) -> RequestError:
    seconds = max(1, math.ceil(retry_after_s))
    headers = {"Retry-After": str(seconds)}
    return RequestError(f"{message}; try again in {seconds} s", status=status, code=code, headers=headers)
