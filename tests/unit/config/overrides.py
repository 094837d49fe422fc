"""What the tests of several sections ask of a list of overrides."""

import json

import pytest

from emoji_ldm.config import build, load
from emoji_ldm.errors import ConfigError


def assert_refused_in_one_line(overrides, words):
    with pytest.raises(ConfigError, match=words) as caught:
        load(None, overrides)
    assert "\n" not in str(caught.value)


def assert_loads_again(overrides, tmp_path):
    """With every field written out, also those that only some values of others allow."""
    config, path = load(None, overrides), tmp_path / "resolved.yaml"
    path.write_text(config.to_yaml())
    again = load(str(path))
    assert again == config and again.to_json() == config.to_json()
    assert build(json.loads(config.to_json()), where="a manifest") == config
