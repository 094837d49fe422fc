"""A package that is kept out counts as not installed while the block lasts, and is as it was afterwards."""

import importlib
import sys

import pytest

from emoji_ldm.train.deepspeed_compat import hide_package


def test_it_cannot_be_imported_in_the_block_and_can_behind_it():
    sys.modules.pop("colorsys", None)
    with pytest.raises(ImportError), hide_package("colorsys"):
        importlib.import_module("colorsys")
    assert importlib.import_module("colorsys").rgb_to_hsv


def test_what_is_loaded_already_stays():
    import json

    with hide_package("json"):
        assert importlib.import_module("json") is json
    assert sys.modules["json"] is json
