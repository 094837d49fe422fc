"""Tests of the service routes and of CORS."""

import pytest

from emoji_ldm.config.serve import ServeConfig
from tests.unit.serve.asgi_client import call
from tests.unit.serve.fake_backend import FakeBackend


@pytest.mark.parametrize(("ready", "status"), [(True, 200), (False, 503)])
def test_health_reports_the_readiness_of_the_backend(ready, status):
    assert call(FakeBackend(is_ready=ready), "GET", "/health").status_code == status


def test_models_are_listed_with_their_limits():
    first, second = call(FakeBackend(), "GET", "/v1/models").json()["data"]
    assert first["id"] == "demo-1" and first["schedulers"] == ["ddim", "euler"] and second["max_steps"] == 8
    assert call(FakeBackend(), "GET", "/v1/models/flow-1").json() | {"created": second["created"]} == second


def test_cors_headers_are_sent_to_configured_origins_only():
    preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    assert call(FakeBackend(), "OPTIONS", "/v1/images/generations", headers=preflight).status_code == 405
    settings = ServeConfig(cors_origins=("https://a.example",))
    allowed = call(FakeBackend(), "OPTIONS", "/v1/images/generations", settings, headers=preflight)
    assert allowed.status_code == 200 and allowed.headers["access-control-allow-origin"] == "https://a.example"
    other = call(FakeBackend(), "GET", "/v1/models", settings, headers={"Origin": "https://b.example"})
    assert "access-control-allow-origin" not in other.headers
