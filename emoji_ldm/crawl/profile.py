"""Crawl profiles: how a site numbers its listing pages, and where the tiles are on them."""

from __future__ import annotations

import difflib
import string
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from emoji_ldm.errors import ConfigError

PROFILE_FOLDER = Path(__file__).parent / "profiles"


class Profile(BaseModel):
    """One site's listing. Selectors are CSS and optional: tiles they do not find are looked for by structure."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    url: str
    """Address of a listing page, with {site}, {tag} and {page}."""
    content: str = ""
    """Selector of the part that holds the tiles; empty takes <main>, or the page without its furniture."""
    tile: str = ""
    """Selector of one tile; empty finds tiles by structure."""
    image: str = "img"
    """Selector of the image inside a tile."""
    title: str = ""
    """Selector of the element inside a tile whose text is the title; empty takes title, alt or the tile's text."""

    @field_validator("url")
    @classmethod
    def _names_its_parts(cls, url: str) -> str:
        fields = {name for _, name, _, _ in string.Formatter().parse(url) if name is not None}
        if fields != {"site", "tag", "page"}:
            raise ValueError("must hold {site}, {tag} and {page}, and no other field")
        return url

    def page_url(self, site: str, tag: str, page: int) -> str:
        """Address of page `page`, from 1, of a tag."""
        return self.url.format(site=site.rstrip("/"), tag=quote(tag, safe=""), page=page)


def profile_names() -> list[str]:
    """Names of the shipped profiles."""
    return sorted(path.stem for path in PROFILE_FOLDER.glob("*.yaml"))


def load_profile(name: str) -> Profile:
    """The profile of a shipped name or a YAML file.

    Raises:
        ConfigError: There is none of this name, or the file is no profile; names the nearest or the bad field.
    """
    shipped = PROFILE_FOLDER / f"{name}.yaml"
    path = shipped if name in profile_names() else Path(name)
    if not path.is_file():
        close = difflib.get_close_matches(name, profile_names(), n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"crawl.profile: no profile or file {name!r}{hint} (profiles: {', '.join(profile_names())})")
    try:
        return Profile.model_validate(_values(path))
    except ValidationError as error:
        raise ConfigError(f"crawl.profile {path}: {_first_problem(error)}") from None


def _values(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"crawl.profile {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(
            f'crawl.profile {path} holds no mapping; expected at least `url: "{{site}}/...{{tag}}...{{page}}"`'
        )
    return values


def _first_problem(error: ValidationError) -> str:
    """What is wrong with the first bad field; an unknown one is answered with the nearest right name."""
    problem = error.errors()[0]
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        return f"{field}: {problem['msg'].removeprefix('Value error, ')}"
    close = difflib.get_close_matches(field, list(Profile.model_fields), n=1, cutoff=0.5)
    return f"unknown field {field!r}" + (f"; did you mean {close[0]!r}?" if close else "")
