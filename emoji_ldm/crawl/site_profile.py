"""Crawl profiles: how a site numbers its pages and where tiles are on them, or how an API answers."""

from __future__ import annotations

import difflib
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qs, quote, urljoin, urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from emoji_ldm.errors import ConfigError

PROFILE_FOLDER = Path(__file__).parent / "profiles"
MODEL_CONFIG = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def _check_url_fields(url: str, allowed: set[str], required: set[str]) -> str:
    fields = {name for _, name, _, _ in string.Formatter().parse(url) if name is not None}
    if not required <= fields or not fields <= allowed:
        shown = ", ".join(f"{{{name}}}" for name in sorted(allowed))
        raise ValueError(f"must hold {' and '.join(f'{{{n}}}' for n in sorted(required))}; its fields are {shown}")
    return url


class ImageProxy(BaseModel):
    """An image proxy whose addresses name the original: the same image in other sizes is then one URL, fetched once."""

    model_config = MODEL_CONFIG

    path: str
    """Path of the proxy, such as /_next/image."""
    parameter: str = "url"
    """Query parameter that holds the original's address."""

    def original(self, address: str) -> str:
        """The original behind an address of the proxy; any other address as it is."""
        parts = urlsplit(address)
        found = parse_qs(parts.query).get(self.parameter, []) if parts.path == self.path else []
        original = urljoin(address, found[0]) if found else address
        return original if urlsplit(original).scheme in ("http", "https") else address


class SiteProfile(BaseModel):
    """One site's listing. Selectors are CSS and optional: tiles they do not find are looked for by structure."""

    model_config = MODEL_CONFIG

    kind: Literal["pages"] = "pages"
    """`pages`: HTML, for crawl.source listing and html."""
    url: str
    """Address of a listing page, with {site}, {tag} and {page} (from 1); without {page}, a tag has one page."""
    content: str = ""
    """Selector of the part that holds the tiles; empty takes <main>, or the page without its furniture."""
    tile: str = ""
    """Selector of one tile; empty finds tiles by structure."""
    image: str = "img"
    """Selector of the image inside a tile."""
    title: str = ""
    """Selector of the element inside a tile whose text is the title; empty takes title, alt or the tile's text."""
    unwrap: ImageProxy | None = None
    """Image proxy to see through: {path, parameter}."""

    @field_validator("url")
    @classmethod
    def _check_url_fields(cls, url: str) -> str:
        return _check_url_fields(url, {"site", "tag", "page"}, {"site"})

    @field_validator("content", "tile", "image", "title")
    @classmethod
    def _is_a_selector(cls, selector: str) -> str:
        from selectolax.lexbor import LexborHTMLParser, SelectolaxError

        try:
            LexborHTMLParser("").css(selector or "img")
        except SelectolaxError:
            raise ValueError(f"{selector!r} is no CSS selector") from None
        return selector

    def page_url(self, site: str, tag: str, page: int) -> str:
        """Address of page `page`, from 1, of a tag."""
        return self.url.format(site=site.rstrip("/"), tag=quote(tag, safe=""), page=page)

    def unwrapped(self, address: str) -> str:
        """The one address of an image."""
        return self.unwrap.original(address) if self.unwrap else address


class ApiProfile(BaseModel):
    """One JSON image search. Paths such as `data.items` name keys inside keys."""

    model_config = MODEL_CONFIG

    kind: Literal["api"]
    """`api`: JSON, for crawl.source=api."""
    url: str
    """Address of an answer, with {site}, {tag} (the query) and {page} (from 1), {index} (from 0) or {offset}."""
    page_size: Annotated[int, Field(gt=0)] = 50
    """Results per answer; {offset} grows by it."""
    items: str
    """Path of the list of results; empty if the answer itself is the list."""
    image: str
    """Path of the image's address inside a result."""
    title: str = ""
    """Path of its title."""
    key_variable: str = ""
    """Environment variable that holds the API key; empty if it needs none. The key itself is never written down."""
    key_header: str = ""
    """Header that carries the key."""
    key_parameter: str = ""
    """Query parameter that carries the key, if no header does."""

    @field_validator("url")
    @classmethod
    def _check_url_fields(cls, url: str) -> str:
        return _check_url_fields(url, {"site", "tag", "page", "index", "offset"}, {"site", "tag"})

    @model_validator(mode="after")
    def _key_has_a_carrier(self) -> Self:
        if self.key_variable and bool(self.key_parameter) == bool(self.key_header):
            raise ValueError("key_variable needs exactly one of key_header and key_parameter")
        return self

    def page_url(self, site: str, tag: str, page: int) -> str:
        """Address of answer `page`, from 1, for a query; it holds no key."""
        offset = (page - 1) * self.page_size
        return self.url.format(site=site.rstrip("/"), tag=quote(tag, safe=""), page=page, index=page - 1, offset=offset)


KINDS: dict[str, type[SiteProfile] | type[ApiProfile]] = {"pages": SiteProfile, "api": ApiProfile}


def profile_names(kind: str = "") -> list[str]:
    """Names of the shipped profiles, of one kind or all."""
    names = sorted(path.stem for path in PROFILE_FOLDER.glob("*.yaml"))
    return [name for name in names if not kind or _values(PROFILE_FOLDER / f"{name}.yaml").get("kind", "pages") == kind]


def load_site_profile(name: str) -> SiteProfile:
    """The profile of HTML pages of a shipped name or a YAML file.

    Raises:
        ConfigError: There is none of this name or kind, or the file is no profile; names the nearest or the bad field.
    """
    profile = _load(name, "pages")
    assert isinstance(profile, SiteProfile), "loaded by its kind"
    return profile


def load_api_profile(name: str) -> ApiProfile:
    """The profile of an API of a shipped name or a YAML file; ConfigError as from `load_profile`."""
    profile = _load(name, "api")
    assert isinstance(profile, ApiProfile), "loaded by its kind"
    return profile


def _load(name: str, kind: str) -> SiteProfile | ApiProfile:
    shipped = PROFILE_FOLDER / f"{name}.yaml"
    path = shipped if name in profile_names() else Path(name)
    if not path.is_file():
        close = difflib.get_close_matches(name, profile_names(kind), n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        known = ", ".join(profile_names(kind))
        raise ConfigError(f"crawl.profile: no profile or file {name!r}{hint} (profiles: {known})")
    values = _values(path)
    found = values.get("kind", "pages")
    if found != kind and found in KINDS:
        sources = "crawl.source=api" if found == "api" else "crawl.source=listing or html"
        raise ConfigError(
            f"crawl.profile {name} is of kind {found!r}, for {sources}; "
            f"choose one of {', '.join(profile_names(kind))}, or a file of kind {kind!r}"
        )
    try:
        return KINDS[kind].model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"crawl.profile {path}: {_first_problem(error, KINDS[kind])}") from None


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


def _first_problem(error: ValidationError, model: type[BaseModel]) -> str:
    """What is wrong with the first bad field; an unknown one is answered with the nearest right name."""
    problem = error.errors()[0]
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        return f"{field}: {problem['msg'].removeprefix('Value error, ')}".removeprefix(": ")
    known = list(ImageProxy.model_fields if field.startswith("unwrap.") else model.model_fields)
    close = difflib.get_close_matches(field.rpartition(".")[2], known, n=1, cutoff=0.5)
    return f"unknown field {field!r}" + (f"; did you mean {close[0]!r}?" if close else f" (known: {', '.join(known)})")


@dataclass(frozen=True)
class SitePages:
    """Names of a site's pages: those of its tags, by a profile."""

    site: str
    wanted: tuple[str, ...]
    profile: SiteProfile | ApiProfile

    @property
    def tags(self) -> Sequence[str]:
        """The wanted tags, each once."""
        return list(dict.fromkeys(self.wanted))

    def url(self, tag: str, page: int) -> str:
        """Address of page `page`, from 1, of a tag."""
        return self.profile.page_url(self.site, tag, page)
