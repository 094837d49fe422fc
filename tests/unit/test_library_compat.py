"""Compat modules refuse versions that they were not tested with, and hide packages that would slow an import down."""

import importlib
import sys
from importlib.metadata import version

import pytest

from emoji_ldm import library_compat
from emoji_ldm.library_compat import hide_package, require_version


def test_a_known_release_series_is_accepted_in_any_patch_release(monkeypatch):
    monkeypatch.setattr(library_compat, "version", lambda package: "0.19.8+local")
    require_version("deepspeed", ("0.18", "0.19"))


@pytest.mark.parametrize("found", ["0.1.9", "0.190.0", "1.0.19"])
def test_another_release_series_is_refused_with_both_versions(found, monkeypatch):
    monkeypatch.setattr(library_compat, "version", lambda package: found)
    with pytest.raises(ImportError, match=rf"deepspeed {found} is installed.*tested with 0\.19\.x only"):
        require_version("deepspeed", ("0.19",))


def test_a_library_that_is_not_installed_is_named_with_its_versions():
    with pytest.raises(
        ImportError, match=r"no-such-library is not installed; install no-such-library 1\.2\.x or 1\.3\.x"
    ):
        require_version("no-such-library", ("1.2", "1.3"))


@pytest.mark.parametrize("package", ["torch", "transformers", "deepspeed"])
def test_the_installed_libraries_are_of_known_versions(package):
    modules = {"torch": "emoji_ldm.model.torch_compat", "transformers": "emoji_ldm.latents.transformers_compat",
               "deepspeed": "emoji_ldm.train.engines.deepspeed_compat"}  # fmt: skip
    known = importlib.import_module(modules[package]).KNOWN_VERSIONS
    assert version(package).rpartition(".")[0] in known


def test_a_hidden_package_cannot_be_imported_within_the_block_but_after_it():
    sys.modules.pop("colorsys", None)
    with pytest.raises(ImportError), hide_package("colorsys"):
        importlib.import_module("colorsys")
    assert importlib.import_module("colorsys").rgb_to_hsv


def test_a_package_that_is_already_loaded_stays():
    import json

    with hide_package("json"):
        assert importlib.import_module("json") is json
    assert sys.modules["json"] is json
