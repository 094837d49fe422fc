"""Crawl profiles: how a site numbers its pages and where tiles are on them, or how an API answers.

A profile is a YAML file, shipped in `profiles/` or written by the user (`emoji-ldm crawl probe` proposes one). Its
field names are therefore a public format.
"""

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
# Unknown fields are errors: a misspelt selector must not silently fall back to the structure of the page.
MODEL_CONFIG = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ImageProxy(BaseModel):
    """An image proxy whose URLs contain the URL of the original image.

    Crawling the originals instead fetches an image once, not once for each size that the proxy offers.
    """

    model_config = MODEL_CONFIG

    path: str
    """Path of the proxy, such as /_next/image."""
    parameter: str = "url"
    """Query parameter that holds the URL of the original."""

    def original_url(self, address: str) -> str:
        """Return the URL of the original behind a URL of the proxy; any other URL unchanged."""
        parts = urlsplit(address)
        # An image proxy without the parameter, or with an empty one, is an ordinary image.
        found = parse_qs(parts.query).get(self.parameter, []) if parts.path == self.path else []
        original = urljoin(address, found[0]) if found else address
        # The parameter is under the site's control: anything but a web address (data:, file:) is not followed.
        return original if urlsplit(original).scheme in ("http", "https") else address


More = Literal["auto", "pages", "next", "scroll", "button", "sitemap", "none"]


class SiteProfile(BaseModel):
    """The listing pages of one site. CSS selectors are optional: without `tile`, tiles are found by structure."""

    model_config = MODEL_CONFIG

    kind: Literal["pages"] = "pages"
    """`pages`: HTML, for crawl.source listing and html."""
    url: str
    """Address of a listing page, with {site}, {tag} and {page} (from 1); without {page}, a tag has one page."""
    content: str = ""
    """Selector of the part that holds the tiles; empty takes <main>, or the page without navigation and side panels."""
    tile: str = ""
    """Selector of one tile; it is obeyed, also where it matches nothing. Empty finds tiles by structure."""
    image: str = ""
    """Selector of the image inside a tile; empty takes the picture that differs from tile to tile."""
    title: str = ""
    """Selector of the element inside a tile whose text is the title; empty takes title, alt or the tile's text."""
    more: More = "auto"
    """How to get beyond the first screen. `pages`: by {page} in the url; `next`: by links to the next page; `scroll`:
    by scrolling; `button`: by a button for more or for the next tiles; `sitemap`: the pages below `url` that the
    site's sitemap lists; `none`: there is no more. `auto` takes what the page offers, and costs a look at each page."""
    unwrap: ImageProxy | None = None
    """Image proxy whose originals are fetched instead: {path, parameter}."""

    @field_validator("url")
    @classmethod
    def _check_url_fields(cls, url: str) -> str:
        return _validate_url_fields(url, {"site", "tag", "page"}, {"site"})

    @field_validator("content", "tile", "image", "title")
    @classmethod
    def _is_a_selector(cls, selector: str) -> str:
        # The HTML parser is imported on use: API profiles and `--help` do not need it.
        from selectolax.lexbor import LexborHTMLParser, SelectolaxError

        try:
            LexborHTMLParser("").css(selector or "img")
        except SelectolaxError:
            raise ValueError(f"{selector!r} is not a CSS selector") from None
        return selector

    @model_validator(mode="after")
    def _pages_have_numbers(self) -> Self:
        # Both would be accepted and then ignored, one of them.
        if self.more == "pages" and "{page}" not in self.url:
            raise ValueError("more: pages needs {page} in url")
        return self

    @property
    def follows_links(self) -> bool:
        """Whether each page says which one comes next."""
        return self.more in ("next", "sitemap") or (self.more == "auto" and "{page}" not in self.url)

    def page_url(self, site: str, tag: str, page: int) -> str:
        """Return the address of page `page`, from 1, of a tag."""
        return self.url.format(site=site.rstrip("/"), tag=quote(tag, safe=""), page=page)

    def original_url(self, address: str) -> str:
        """Return the URL of an image without its proxy."""
        return self.unwrap.original_url(address) if self.unwrap else address


class ApiProfile(BaseModel):
    """One JSON image search API. A path such as `data.items.0.url` names nested keys and places in lists."""

    model_config = MODEL_CONFIG

    kind: Literal["api"]
    """`api`: JSON, for crawl.source=api."""
    url: str
    """Address of an answer: {site}, {tag} (the query) and {page} (from 1), {index} (from 0), {offset} or {cursor}."""
    page_size: Annotated[int, Field(gt=0)] = 50
    """Results per answer; {offset} grows by it."""
    items: str
    """Path of the list of results; empty if the answer itself is the list."""
    image: str
    """Path of the image's URL inside a result."""
    title: str = ""
    """Path of its title."""
    next: str = ""
    """Path of what leads to the next answer: its address, or the value of {cursor}; empty if answers have numbers."""
    key_variable: str = ""
    """Environment variable that holds the API key; empty if none is needed. The key itself is never stored."""
    key_header: str = ""
    """Header that carries the key."""
    key_parameter: str = ""
    """Query parameter that carries the key, if no header does."""

    @field_validator("url")
    @classmethod
    def _check_url_fields(cls, url: str) -> str:
        return _validate_url_fields(url, {"site", "tag", "page", "index", "offset", "cursor"}, {"site", "tag"})

    @model_validator(mode="after")
    def _key_has_a_carrier(self) -> Self:
        # A key without a carrier would never be sent, and one with two carriers would also show up in the URL.
        if self.key_variable and bool(self.key_parameter) == bool(self.key_header):
            raise ValueError("key_variable needs exactly one of key_header and key_parameter")
        if "{cursor}" in self.url and not self.next:
            raise ValueError("{cursor} in url needs next, the path of its value")
        return self

    @property
    def follows_links(self) -> bool:
        """Whether each answer says which one comes next."""
        return bool(self.next)

    def page_url(self, site: str, tag: str, page: int) -> str:
        """Return the address of answer `page`, from 1, for a query, without the key."""
        # APIs number results in three ways: by page from 1, by page from 0, or by the offset of the first result.
        offset = (page - 1) * self.page_size
        return self._fill(site, tag, page=page, index=page - 1, offset=offset, cursor="")

    def next_url(self, site: str, tag: str, url: str, value: object) -> str:
        """Return the address of the answer after the one at `url`; "" after the last one.

        Args:
            site: Address of the API.
            tag: The query.
            url: Address of the answer.
            value: What the answer has at the path `next`: an address, absolute or relative, or a cursor.
        """
        if not isinstance(value, (str, int)) or isinstance(value, bool) or value == "":
            return ""
        if "{cursor}" in self.url:
            return self._fill(site, tag, page=1, index=0, offset=0, cursor=quote(str(value), safe=""))
        following = urljoin(url, str(value))
        # An answer that leads to another host would carry the key there.
        return following if urlsplit(following).netloc == urlsplit(url).netloc else ""

    def _fill(self, site: str, tag: str, **fields: object) -> str:
        return self.url.format(site=site.rstrip("/"), tag=quote(tag, safe=""), **fields)


@dataclass(frozen=True)
class SitePages:
    """The `PageNames` of a site or API: its configured tags, with addresses by a profile."""

    site: str
    configured_tags: tuple[str, ...]
    profile: SiteProfile | ApiProfile

    @property
    def tags(self) -> Sequence[str]:
        """The configured tags, each once."""
        return list(dict.fromkeys(self.configured_tags))

    def url(self, tag: str, page: int) -> str:
        """Return the address of page `page`, from 1, of a tag."""
        return self.profile.page_url(self.site, tag, page)

    @property
    def follows_links(self) -> bool:
        """Whether only the first page of a tag has a known address."""
        return self.profile.follows_links


KINDS: dict[str, type[SiteProfile] | type[ApiProfile]] = {"pages": SiteProfile, "api": ApiProfile}


def profile_names(kind: str = "") -> list[str]:
    """List the shipped profiles, of one kind or all."""
    names = sorted(path.stem for path in PROFILE_FOLDER.glob("*.yaml"))
    return [name for name in names if not kind or _values(PROFILE_FOLDER / f"{name}.yaml").get("kind", "pages") == kind]


def load_site_profile(name: str) -> SiteProfile:
    """Load the profile of HTML pages with a shipped name, or from a YAML file.

    Raises:
        ConfigError: There is no such name or file (the message suggests the closest name), it is of another kind, or
            the file is not a valid profile (the message names the first bad field).
    """
    profile = _load(name, "pages")
    assert isinstance(profile, SiteProfile), "loaded by its kind"
    return profile


def load_api_profile(name: str) -> ApiProfile:
    """Load the profile of a JSON API with a shipped name, or from a YAML file.

    Raises:
        ConfigError: As for `load_site_profile`.
    """
    profile = _load(name, "api")
    assert isinstance(profile, ApiProfile), "loaded by its kind"
    return profile


def _load(name: str, kind: str) -> SiteProfile | ApiProfile:
    shipped = PROFILE_FOLDER / f"{name}.yaml"
    # A shipped name wins over a file of the same name in the working folder.
    path = shipped if name in profile_names() else Path(name)
    if not path.is_file():
        # A misspelt name is the most common mistake, so the error suggests the closest one.
        close = difflib.get_close_matches(name, profile_names(kind), n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        known = ", ".join(profile_names(kind))
        raise ConfigError(f"crawl.profile: there is no profile or file {name!r}{hint} (profiles: {known})")
    values = _values(path)
    # `kind` is read before validation: a profile of the other kind would only give a list of unknown fields.
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
            f'crawl.profile {path} is not a YAML mapping; it needs at least `url: "{{site}}/...{{tag}}...{{page}}"`'
        )
    return values


def _first_problem(error: ValidationError, model: type[BaseModel]) -> str:
    """Describe the first invalid field; for an unknown one, suggest the closest known name."""
    # The first problem is enough: the user fixes it and runs the command again.
    problem = error.errors()[0]
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        return f"{field}: {problem['msg'].removeprefix('Value error, ')}".removeprefix(": ")
    known = list(ImageProxy.model_fields if field.startswith("unwrap.") else model.model_fields)
    close = difflib.get_close_matches(field.rpartition(".")[2], known, n=1, cutoff=0.5)
    return f"unknown field {field!r}" + (f"; did you mean {close[0]!r}?" if close else f" (known: {', '.join(known)})")


def _validate_url_fields(url: str, allowed: set[str], required: set[str]) -> str:
    """Check the replacement fields of a URL pattern; ValueError names those that are missing or unknown."""
    fields = {name for _, name, _, _ in string.Formatter().parse(url) if name is not None}
    if not required <= fields or not fields <= allowed:
        shown = ", ".join(f"{{{name}}}" for name in sorted(allowed))
        raise ValueError(f"must contain {' and '.join(f'{{{n}}}' for n in sorted(required))}; its fields are {shown}")
    return url
