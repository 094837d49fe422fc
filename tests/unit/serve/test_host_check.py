"""Which addresses need keys, and which names a service answers to."""

import pytest

from emoji_ldm.config.serve import ServeConfig
from emoji_ldm.errors import ConfigError
from emoji_ldm.serve.app import build_api
from emoji_ldm.serve.host_check import require_keys, served_hosts
from tests.unit.serve.asgi_client import error_of, send
from tests.unit.serve.fake_backend import FakeBackend


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "gpu-box", "10.0.0.7"])
def test_a_service_that_others_reach_needs_keys_or_leave(host):
    with pytest.raises(ConfigError, match=r"emoji-ldm keys add.*serve\.anonymous=true"):
        require_keys(ServeConfig(host=host))
    require_keys(ServeConfig(host=host, anonymous=True))
    require_keys(ServeConfig(host=host, keys="keys.json"))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_a_service_of_this_machine_needs_none(host):
    require_keys(ServeConfig(host=host))


@pytest.mark.parametrize(
    ("settings", "host", "status"),
    [
        ({}, "localhost:8000", 200),
        ({}, "127.0.0.1:8000", 200),
        ({}, "[::1]:8000", 200),
        ({}, "10.1.2.3", 200),
        ({}, "", 200),
        ({}, "evil.example:8000", 403),
        ({}, "localhost.evil.example", 403),
        ({}, "127.0.0.1.evil.example", 403),
        ({"host": "gpu-box", "anonymous": True}, "GPU-box:8000", 200),
        ({"host": "gpu-box", "anonymous": True}, "evil.example", 403),
        ({"hosts": ("draw.example.org", "*.internal")}, "draw.example.org.", 200),
        ({"hosts": ("draw.example.org", "*.internal")}, "emoji.team.internal", 200),
        ({"hosts": ("draw.example.org", "*.internal")}, "internal", 403),
        ({"hosts": ("*",)}, "anything.example", 200),
        ({"keys": "keys.json"}, "anything.example", 200),
        ({"keys": "keys.json", "hosts": ("draw.example.org",)}, "anything.example", 403),
    ],
)
def test_a_page_whose_name_is_made_to_mean_this_machine_is_refused(settings, host, status):
    api = build_api(FakeBackend(), hosts=served_hosts(ServeConfig(**settings)))
    for path in ("/v1/models", "/health"):
        response = send(api, "GET", path, headers={"Host": host})
        assert response.status_code == status
        if status == 403:
            assert "serve.hosts" in error_of(response, 403)["message"]
