"""The page `/docs`: all routes with their fields, whole without any other file, so that it is there offline too."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

Facts = Mapping[str, Any]
STYLE = """
:root { color-scheme: light dark; --edge: #8884; --quiet: #8882; --link: light-dark(#0b57d0, #9ac1ff) }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 0 auto; padding: 1.5rem 1rem 4rem }
h1 { margin: 0; font-size: 1.7rem } h2 { margin: 2rem 0 .5rem; font-size: 1.15rem; text-transform: capitalize }
a { color: var(--link) } code, pre { font: .875em/1.5 ui-monospace, monospace }
code { overflow-wrap: anywhere } pre { background: var(--quiet); padding: .75rem; border-radius: 6px; overflow-x: auto }
details, .route { border-top: 1px solid var(--edge); padding: .6rem 0 } summary { cursor: pointer }
summary:focus-visible { outline: 2px solid var(--link); outline-offset: 2px }
.route, details .about { padding-left: 1.1rem } .method { font-weight: 700; margin-right: .4em }
.about { display: block; opacity: .8 }
dl { margin: .6rem 0 .4rem 1.1rem } dt { margin-top: .5rem } dt span { opacity: .7; font-size: .875rem }
dd { margin: 0 }
"""
CLIENT_EXAMPLE = """from openai import OpenAI

client = OpenAI(base_url="<this service>/v1", api_key="none")  # or your key
client.images.generate(prompt="a happy blob").data[0].b64_json"""


def render_docs(openapi: Facts) -> str:
    """HTML of a description as FastAPI makes it."""
    info = openapi["info"]
    title, about = (
        escape(info["title"]),
        "".join(f"<p>{_marked(part)}</p>" for part in info["description"].split("\n\n")),
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body><main>'
        f"<h1>{title} {escape(info['version'])}</h1>{about}<pre>{escape(CLIENT_EXAMPLE)}</pre>"
        f'<p>All of it for programs: <a href="openapi.json">openapi.json</a></p>{"".join(_groups(openapi["paths"]))}'
        "</main></body></html>"
    )


def _groups(paths: Facts) -> Iterator[str]:
    """A heading for each tag and the routes below it."""
    routes = [
        (facts.get("tags", ["more"])[0], path, method, facts)
        for path, methods in paths.items()
        for method, facts in methods.items()
    ]
    for tag in dict.fromkeys(tag for tag, *_ in routes):
        yield f"<section><h2>{escape(tag)}</h2>"
        yield from (_route(path, method, facts) for known, path, method, facts in routes if known == tag)
        yield "</section>"


def _route(path: str, method: str, facts: Facts) -> str:
    head = (f'<span class="method">{method.upper()}</span><code>{escape(path)}</code>'
            f'<span class="about">{_marked(facts.get("description", ""))}</span>')  # fmt: skip
    fields = "".join(_fields(facts))
    if not fields:
        return f'<div class="route">{head}</div>'
    return f"<details><summary>{head}</summary><dl>{fields}</dl></details>"


def _fields(facts: Facts) -> Iterator[str]:
    """What a request says: in its query and in its body."""
    for one in facts.get("parameters", ()):
        if one["in"] == "query":
            yield _field(one["name"], {**one["schema"], "description": one.get("description", "")}, one["required"])
    for content in facts.get("requestBody", {}).get("content", {}).values():
        schema = content["schema"]
        for name, field in schema.get("properties", {}).items():
            yield _field(name, field, name in schema.get("required", ()))


def _field(name: str, field: Facts, required: bool) -> str:
    default = field.get("default") or ""
    notes = ["required" if required else "", f"default {default}" if default else ""]
    shown = ", ".join(filter(None, [_kind(field), *notes]))
    about = _marked(field.get("description", ""))
    return f"<dt><code>{escape(name)}</code> <span>{escape(shown)}</span></dt><dd>{about}</dd>"


def _kind(field: Facts) -> str:
    """What a field may be, in a word or two."""
    choices = field.get("enum") or [value for value in [field.get("const")] if value is not None]
    if choices:
        return " | ".join(map(str, choices))
    several = [_kind(one) for one in field.get("anyOf", ()) if one.get("type") != "null"]
    return " | ".join(several) or ("file" if field.get("format") == "binary" else str(field.get("type", "")))


def _marked(text: str) -> str:
    """Text with its `code`."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
