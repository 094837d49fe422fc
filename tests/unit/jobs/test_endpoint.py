"""The port of a service and the command to try."""

import socket

import pytest

from emoji_ldm.config import ServeConfig
from emoji_ldm.errors import ConfigError
from ray_jobs.serving.endpoint import curl, free_port


def test_a_port_in_use_is_one_line_and_0_takes_a_free_one():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"cannot listen on 127\.0\.0\.1:{port}.*serve\.port"):
            free_port("127.0.0.1", port)
        assert free_port("127.0.0.1", 0) not in (0, port)


def test_the_command_to_try_sends_a_key_only_if_the_service_asks_for_one():
    header = '-H "Authorization: Bearer $EMOJI_LDM_API_KEY"'
    assert header in curl("http://x", ServeConfig(keys="keys.json"))
    assert header not in curl("http://x", ServeConfig())
