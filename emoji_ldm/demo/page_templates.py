"""The gallery's pages: HTML, style sheet and script, with class names that change at every start."""

from __future__ import annotations

import re
import secrets
import string
from dataclasses import dataclass, field
from importlib import resources

import jinja2

from emoji_ldm.demo.sample_images import OPENMOJI_CREDIT, TAGS

_TEMPLATES = ("listing.html", "style.css", "tiles.js")
# Images of the page's chrome, by the names of the fixture: the logo, the sidebar's and the footer's. A crawl must not
# take them for tiles, although they are emoji and repeated.
LOGO = "blob-smiling-face-with-sunglasses"
SERVERS = {
    "Blob lounge": "blob-ghost",
    "Panda café": "fluent-panda",
    "Night owls": "blob-owl",
    "Dino park": "fluent-t-rex",
}
BADGES = {"Made with love": "blob-sparkling-heart", "Open source": "blob-robot", "Cat approved": "blob-grinning-cat"}
CHROME_IMAGES = (LOGO, *SERVERS.values(), *BADGES.values())


def _template_source(name: str) -> str:
    return resources.files("emoji_ldm.demo").joinpath("site", name).read_text(encoding="utf-8")


def _class_names() -> dict[str, str]:
    """Return a random class name for each role, like those of a style-sheet compiler.

    A role is what a template calls `c.role`. No role occurs in the page, so a crawl has to find tiles by structure.
    """
    # Sorted, because the order of a set would vary; the names themselves are random.
    roles = sorted({role for name in _TEMPLATES for role in re.findall(r"\bc\.(\w+)", _template_source(name))})
    letters = string.ascii_letters
    return {
        role: secrets.choice(letters) + "".join(secrets.choice(letters + string.digits) for _ in range(7))
        for role in roles
    }


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(_template_source), autoescape=True, undefined=jinja2.StrictUndefined
    )


@dataclass(frozen=True)
class PageTemplates:
    """Renders the site's text files; each instance is another build of the site."""

    classes: dict[str, str] = field(default_factory=_class_names)
    build: str = field(default_factory=lambda: secrets.token_hex(8))
    env: jinja2.Environment = field(default_factory=_environment)

    @property
    def css_path(self) -> str:
        """Path of the style sheet."""
        return f"/_next/static/css/{self.build}.css"

    @property
    def js_path(self) -> str:
        """Path of the script."""
        return f"/_next/static/chunks/{self.build}.js"

    def listing(self, tag: str, page: int, num_pages: int, num_tiles: int) -> str:
        """Return the HTML of one listing page, without tiles: the script loads them."""
        return self._render("listing.html", tag=tag, page=page, num_pages=num_pages, num_tiles=num_tiles)

    def asset(self, path: str) -> tuple[str, str] | None:
        """Return text and content type of the style sheet or the script, if `path` is one of them."""
        if path == self.css_path:
            return self._render("style.css"), "text/css; charset=utf-8"
        if path == self.js_path:
            return self._render("tiles.js"), "text/javascript; charset=utf-8"
        return None

    def _render(self, name: str, **values: object) -> str:
        chrome = {"logo": LOGO, "servers": SERVERS, "badges": BADGES, "credit": OPENMOJI_CREDIT}
        return self.env.get_template(name).render(c=self.classes, tags=TAGS, site=self, **chrome, **values)
