"""The base of configuration sections: fields without effect, and values that YAML misreads."""

import datetime

import pytest
from pydantic import ValidationError

from emoji_ldm.config.base import Section, as_text
from emoji_ldm.errors import ConfigError


class Example(Section):
    """A section of two fields."""

    rank: int | None = None
    """Rank."""
    share: float = 0.1
    """Share."""

    def refuse(self):
        self._refuse_idle("example", ["rank", "share"], "without a purpose", harmless=1)


@pytest.mark.parametrize("values", [{}, {"share": 0.1}, {"share": 1}, {"rank": None}])
def test_defaults_null_and_harmless_values_may_stand(values):
    section = Example(**values)
    section.refuse()
    assert Example.model_validate_json(section.model_dump_json()) == section


def test_a_value_without_effect_is_named_with_its_default():
    with pytest.raises(ConfigError, match=r"example\.share=0\.5 has no effect without a purpose; .*default, 0\.1"):
        Example(share=0.5).refuse()


def test_sections_are_frozen_and_closed():
    with pytest.raises(ValidationError, match="frozen"):
        Example().rank = 3
    with pytest.raises(ValidationError, match="not permitted"):
        Example(rang=3)


def test_dates_of_yaml_become_text_and_null_stays_null():
    assert as_text(datetime.date(2026, 11, 21)) == "2026-11-21" and as_text(None) is None
