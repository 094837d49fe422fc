"""Rendering of untrusted SVG drawings: checked first, then drawn in a process with limited memory and time.

Three defences stack up. The document is parsed by expat, which expands no entities here, and rejected if it refers to
anything outside itself, since the renderer would read local files. Its numbers of elements, nesting levels and `use`
references are bounded. What still grows (a `use` that doubles itself) meets the resource limits of the child process.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any
from xml.parsers import expat

from emoji_ldm.outcomes import Outcome, Rejected

MAX_BYTES = 500_000
MAX_ELEMENTS, MAX_DEPTH, MAX_USES = 10_000, 64, 200
MAX_CPU_S, MAX_MEMORY_BYTES = 5, 1 << 30
FORBIDDEN_ELEMENTS = frozenset({"image", "feImage", "script", "foreignObject"})
# The limits are set before the renderer is imported, so that the import counts as well.
RENDER_SCRIPT = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({MAX_MEMORY_BYTES}, {MAX_MEMORY_BYTES}))
resource.setrlimit(resource.RLIMIT_CPU, ({MAX_CPU_S}, {MAX_CPU_S}))
from resvg_py import svg_to_bytes
size = int(sys.argv[1])
svg = sys.stdin.buffer.read().decode()
sys.stdout.buffer.write(bytes(svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)))
"""


def is_svg(data: bytes) -> bool:
    """Whether bytes that are not a raster image look like SVG."""
    # Comments and declarations may come first, so the tag itself is looked for in a larger part.
    start = data[:2000].lstrip(b"\xef\xbb\xbf \t\r\n")
    return start.startswith((b"<svg", b"<?xml", b"<!--", b"<!DOCTYPE")) and b"<svg" in data[:20_000]


def render_svg(data: bytes, size_px: int) -> bytes:
    """Render an SVG as a PNG whose longest side is `size_px`. Text is not drawn, since no font is loaded.

    Raises:
        Rejected: NOT_AN_IMAGE if it is broken, refers to anything outside itself or costs too much; TOO_LARGE above
            `MAX_BYTES`.
    """
    if len(data) > MAX_BYTES:
        raise Rejected(Outcome.TOO_LARGE, f"SVG of {len(data)} bytes; {MAX_BYTES} at most")
    _check_svg(data)
    # Isolated mode (-I): neither the working folder nor PYTHON* variables can bring other modules in.
    command = [sys.executable, "-I", "-c", RENDER_SCRIPT, str(size_px)]
    try:
        # CPU time is limited inside the process; the wall clock is limited too, for a machine that is overloaded.
        result = subprocess.run(command, input=data, capture_output=True, timeout=2 * MAX_CPU_S, check=False)
    except subprocess.TimeoutExpired:
        raise Rejected(Outcome.NOT_AN_IMAGE, "SVG takes too long to draw") from None
    if result.returncode < 0:  # killed by a signal: a limit was hit
        raise Rejected(
            Outcome.NOT_AN_IMAGE, f"SVG takes more than {MAX_CPU_S} s or {MAX_MEMORY_BYTES >> 20} MB to draw"
        )
    if result.returncode:
        message = result.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no reason given"]
        raise Rejected(Outcome.NOT_AN_IMAGE, f"SVG: {message[0]}"[:200])
    return result.stdout


def _check_svg(data: bytes) -> None:
    """Reject drawings that refer to other files or could grow without bound."""
    state = {"depth": 0, "elements": 0, "uses": 0}

    def doctype(*_: Any) -> None:
        raise Rejected(Outcome.NOT_AN_IMAGE, "SVG with a document type, which may define entities")

    def start(name: str, attributes: dict[str, str]) -> None:
        tag = name.rpartition(":")[2]
        state["depth"] += 1
        state["elements"] += 1
        state["uses"] += tag == "use"
        # A link (<a>) draws nothing; every other reference may only point inside the document.
        links = [value for key, value in attributes.items() if key.rpartition(":")[2] == "href" and tag != "a"]
        if tag in FORBIDDEN_ELEMENTS or any(not link.startswith("#") for link in links):
            raise Rejected(Outcome.NOT_AN_IMAGE, f"SVG refers to something outside itself: <{tag}>"[:200])
        if state["depth"] > MAX_DEPTH or state["elements"] > MAX_ELEMENTS or state["uses"] > MAX_USES:
            raise Rejected(Outcome.NOT_AN_IMAGE, "SVG has too many or too deeply nested elements")

    def end(_: str) -> None:
        state["depth"] -= 1

    # A bare expat parser expands no external entities, and a document type is rejected outright.
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler, parser.StartElementHandler, parser.EndElementHandler = doctype, start, end
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise Rejected(Outcome.NOT_AN_IMAGE, f"SVG: {error}") from None
