"""The table of limits."""

import pytest

from emoji_ldm.errors import ConfigError
from emoji_ldm.packs.target_limits import TARGETS, target_of
from ray_jobs.cli.pack import TARGETS_HELP


def test_every_target_has_a_source_and_the_help_names_it():
    for target in TARGETS.values():
        assert target.source and target.title
        assert target.id in TARGETS_HELP
        assert target.min_pictures <= target.max_pictures
        assert list(target.slots) == sorted(target.slots)
        assert not target.slots or target.slots[-1] == target.max_pictures


def test_an_unknown_target_is_named_with_the_nearest_one():
    assert target_of("slack").max_bytes == 131072
    with pytest.raises(ConfigError, match="did you mean 'whatsapp'"):
        target_of("whatsap")
    with pytest.raises(ConfigError, match="known are discord, slack"):
        target_of("zzz")
