"""Tests of the mapping from exceptions to error responses."""

import pytest

from emoji_ldm.errors import ConfigError, DatasetError, StoreError
from emoji_ldm.serve.backend import Overloaded, TaskTimeout
from tests.unit.serve.asgi_client import call, error_of, generate
from tests.unit.serve.fake_backend import FakeBackend


@pytest.mark.parametrize(
    ("fault", "status", "code", "wait"),
    [
        (Overloaded(2.5), 503, "overloaded", "3"),
        (Overloaded(), 503, "overloaded", "1"),
        (TaskTimeout(), 504, "timeout", "5"),
        (ConfigError("this model has no such thing"), 400, None, None),
        (StoreError("no connection"), 503, "store_unreachable", "5"),
        (DatasetError("the log lacks version 3: no connection"), 503, "store_unreachable", "5"),
    ],
)
def test_errors_of_the_backend_have_a_status_a_code_and_a_pause(fault, status, code, wait):
    response = generate(FakeBackend(error=fault), prompt="a", n=3)
    assert error_of(response, status)["code"] == code
    assert response.headers.get("retry-after") == wait


def test_a_crash_is_a_500_without_details_that_clients_do_not_retry(caplog):
    response = generate(FakeBackend(error=RuntimeError("secret")), prompt="a")
    assert error_of(response, 500)["type"] == "server_error"
    assert "secret" not in response.text and response.headers["x-should-retry"] == "false"
    assert "secret" in caplog.text and response.headers["x-request-id"] in caplog.text


def test_errors_for_unknown_paths_and_methods_list_the_known_ones():
    for method, path, status in (("GET", "/v1/images", 404), ("GET", "/v1/images/generations", 405)):
        assert "POST /v1/images/generations" in error_of(call(FakeBackend(), method, path), status)["message"]
