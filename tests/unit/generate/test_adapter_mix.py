"""Mixes of adapters: one name for each, and what is no mix."""

import pytest

from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.adapter_mix import AdapterWeight, mix_name, parse_mix


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", ""),
        ("pixel", "pixel"),
        ("pixel:1.0", "pixel"),
        ("pixel:0.80", "pixel:0.8"),
        ("b:2+a:-0.5", "a:-0.5+b:2"),
        ("z+a+m", "a+m+z"),
    ],
)
def test_a_mix_has_one_name(text, name):
    assert mix_name(parse_mix(text)) == name and mix_name(parse_mix(name)) == name


def test_weights_are_numbers():
    assert parse_mix("a:0.25+b") == (AdapterWeight("a", 0.25), AdapterWeight("b", 1.0))


@pytest.mark.parametrize(
    "text", ["a+", "+", "a:", "a:0", "a:x", "a:1e9", "a:5", "a:nan", "a a", "a:1:2", "a+b+c+d+e", "a+a:2"]
)
def test_what_is_no_mix_is_refused(text):
    with pytest.raises(ConfigError, match="is refused"):
        parse_mix(text)
