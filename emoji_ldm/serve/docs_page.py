"""The page `/docs`: all routes with their fields, as one HTML file rendered from the OpenAPI description.

FastAPI's own page loads Swagger UI from a CDN and would stay empty in a cluster without internet access: we keep ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

JsonObject = Mapping[str, Any]
# Colours follow the reader's light or dark mode; fonts are those of the system. Nothing has to be loaded.
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


def render_docs(openapi: JsonObject) -> str:
    """Render an OpenAPI description, as FastAPI makes it, as HTML that refers to no other file."""
    info = openapi["info"]
    title = escape(info["title"])
    description = "".join(f"<p>{_inline_code(part)}</p>" for part in info["description"].split("\n\n"))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body><main>'
        f"<h1>{title} {escape(info['version'])}</h1>{description}<pre>{escape(CLIENT_EXAMPLE)}</pre>"
        f'<p>All of it for programs: <a href="openapi.json">openapi.json</a></p>{"".join(_groups(openapi["paths"]))}'
        "</main></body></html>"
    )


def _groups(paths: JsonObject) -> Iterator[str]:
    """Yield a section for each tag, with its routes."""
    routes = [
        (operation.get("tags", ["more"])[0], path, method, operation)
        for path, methods in paths.items()
        for method, operation in methods.items()
    ]
    # A dict keeps the order of first appearance, which is the order in which the routers were added.
    for group in dict.fromkeys(tag for tag, *_ in routes):
        yield f"<section><h2>{escape(group)}</h2>"
        yield from (_route(path, method, operation) for tag, path, method, operation in routes if tag == group)
        yield "</section>"


def _route(path: str, method: str, operation: JsonObject) -> str:
    head = (f'<span class="method">{method.upper()}</span><code>{escape(path)}</code>'
            f'<span class="about">{_inline_code(operation.get("description", ""))}</span>')  # fmt: skip
    fields = "".join(_fields(operation))
    if not fields:
        return f'<div class="route">{head}</div>'
    return f"<details><summary>{head}</summary><dl>{fields}</dl></details>"


def _fields(operation: JsonObject) -> Iterator[str]:
    """Yield the query parameters and the fields of the body."""
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "query":
            schema = {**parameter["schema"], "description": parameter.get("description", "")}
            yield _field(parameter["name"], schema, parameter["required"])
    # A body may have several media types. Only JSON objects and forms have named fields to list.
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schema = content["schema"]
        for name, field in schema.get("properties", {}).items():
            yield _field(name, field, name in schema.get("required", ()))


def _field(name: str, schema: JsonObject, required: bool) -> str:
    # Empty defaults (0, "", []) say nothing that the description does not say better.
    default = schema.get("default") or ""
    notes = ["required" if required else "", f"default {default}" if default else ""]
    summary = ", ".join(filter(None, [_type_of(schema), *notes]))
    description = _inline_code(schema.get("description", ""))
    return f"<dt><code>{escape(name)}</code> <span>{escape(summary)}</span></dt><dd>{description}</dd>"


def _type_of(schema: JsonObject) -> str:
    """Return the type of a field in a word or two: its choices, the types of a union, or its only type."""
    choices = schema.get("enum") or [value for value in [schema.get("const")] if value is not None]
    if choices:
        return " | ".join(map(str, choices))
    # Null is left out: a field with a default may be left out itself.
    union = [_type_of(member) for member in schema.get("anyOf", ()) if member.get("type") != "null"]
    return " | ".join(union) or ("file" if schema.get("format") == "binary" else str(schema.get("type", "")))


def _inline_code(text: str) -> str:
    """Escape text, with `code` in backticks marked up."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
