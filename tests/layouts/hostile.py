"""Pages that try to stop, trap or misuse a browser. Each may cost its own page at most.

    with hostile_site(canary_url) as site:
        site.pages["alert"]        # HostilePage: its address, what it does, and the emoji that it shows
        site.server.log            # all requests that came

Each page shows a small listing unless it cannot. `HostilePage.shows` says what a reader may expect: `tiles` before the
page's deadline, `nothing` (the page has to end with an outcome of its own, without tiles), or `either`.
`Canary` is a server that nobody may contact; `names_that_change` is a look-up for the test of DNS rebinding.
"""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.layouts.kit import Kit, fill_all
from tests.layouts.server import Reply, SiteServer
from tests.layouts.truth import TruthTile

NUM_TILES = 24
CRASH = "window.b = new Array(2 ** 24).fill([1, 1, 1, 1, 1, 1, 1, 1, 1, 1]).flat()"
# {name: (what the reader may expect, script that runs before the listing, script that runs after it)}
SCRIPTED: dict[str, tuple[str, str, str]] = {
    "alert": ("tiles", "alert('Welcome!')", ""),
    "alert-late": ("tiles", "", "setTimeout(() => alert('Still there?'), 400)"),
    "alert-forever": ("tiles", "", "setInterval(() => alert('You have won'), 50)"),
    "confirm": ("tiles", "if (!confirm('Are you over 18?')) document.title = 'no'", ""),
    "prompt": ("tiles", "document.title = prompt('Your name?') || 'nobody'", ""),
    "before-unload": ("tiles", "", "onbeforeunload = (e) => { e.preventDefault(); return e.returnValue = 'Stay!' }"),
    "permissions": (
        "tiles", "Notification.requestPermission(); navigator.geolocation.getCurrentPosition(() => 0); "
        "navigator.mediaDevices?.getUserMedia({ audio: true, video: true }).catch(() => 0)", "",
    ),
    "pop-ups": (
        "tiles", "", "for (let n = 0; n < 20; n += 1) open(`/popup?${n}`); "
        "addEventListener('scroll', () => open('/popup')); addEventListener('click', () => open('/popup')); "
        "setInterval(() => open('/popup?t'), 200)",
    ),
    "print": ("tiles", "", "print(); setInterval(() => print(), 300)"),
    "downloads": (
        "tiles", "", "for (let n = 0; n < 5; n += 1) { const a = document.createElement('a'); "
        "a.download = `free-${n}.exe`; a.href = URL.createObjectURL(new Blob(['x'.repeat(1e6)])); a.click() } "
        "const f = document.createElement('iframe'); f.src = '/file.zip'; document.body.append(f)",
    ),
    "never-rests": (
        "tiles", "", "setInterval(() => { document.title = Date.now() }, 30); const poll = () => fetch('/poll')"
        ".finally(poll); poll(); const p = document.createElement('p'); document.body.prepend(p); (function tick() { "
        "p.textContent = performance.now(); p.style.marginLeft = `${performance.now() % 99}px`; "
        "requestAnimationFrame(tick) })(); setInterval(() => { const i = new Image(); i.src = `/pixel?${Date.now()}`; "
        "p.replaceChildren(i) }, 100)",
    ),
    "history": ("tiles", "", "let n = 0; setInterval(() => { history.pushState({}, '', `?step=${n += 1}`) }, 50)"),
    "storage": (
        "tiles", "", "caches.open('x').then((c) => c.put('/big', new Response('x'.repeat(2e7)))); "
        "indexedDB.open('y'); localStorage.z = 'x'.repeat(4e6); navigator.serviceWorker?.register('/worker.js')",
    ),
    "schemes": (
        "tiles", "", "for (const url of ['file:///etc/passwd', 'chrome://version', 'mailto:a@b.c', 'intent://x', "
        "'view-source:http://127.0.0.1']) { const f = document.createElement('iframe'); f.src = url; "
        "document.body.append(f); open(url) } setTimeout(() => { location = 'mailto:a@b.c' }, 100)",
    ),
    "debugger": ("tiles", "", "setInterval(() => { debugger }, 100)"),
    "many-nodes": (
        "tiles", "", "const f = document.createDocumentFragment(); for (let n = 0; n < 60000; n += 1) "
        "f.append(document.createElement('i')); document.body.append(f)",
    ),
    "busy-loop": ("either", "", "setTimeout(() => { for (;;); }, 700)"),
    "busy-at-once": ("nothing", "for (;;);", ""),
    "eats-memory": (  # 600 MB, then it stops
        "either", "", "window.kept = []; const t = setInterval(() => { kept.push(new Uint8Array(2e7).fill(1)); "
        "if (kept.length === 30) clearInterval(t) }, 20)",
    ),
    # `flat` builds an array of more elements than V8 can hold, which ends the renderer after a second at 220 MB.
    "crash": ("nothing", CRASH, ""),
    "crash-late": ("either", "", f"setTimeout(() => {{ {CRASH} }}, 700)"),
    "redirects-by-script": ("nothing", "location.replace(`?${Math.random()}`)", ""),
    "redirects-late": ("either", "", "setTimeout(() => location.replace(`?${Math.random()}`), 900)"),
}  # fmt: skip
CONTACTS = Path(__file__).parent / "contacts.html"


@dataclass(frozen=True)
class HostilePage:
    """One hostile page: its URL, and what a reader may expect of it."""

    url: str
    shows: Literal["tiles", "nothing", "either"]


@dataclass(frozen=True)
class HostileSite:
    """A site of hostile pages, all with the same listing."""

    server: SiteServer
    pages: dict[str, HostilePage]
    truth: list[TruthTile]


class Canary:
    """A server on loopback that must not be contacted; `contacts` holds the first bytes of every connection."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.contacts: list[bytes] = []
        self._socket = socket.create_server((host, 0))
        self.url = f"http://{host}:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Canary:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        # The connection itself is the contact, even if nothing is ever sent on it.
        index = len(self.contacts)
        self.contacts.append(b"")
        with connection:
            connection.settimeout(2)
            try:
                self.contacts[index] = connection.recv(200)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            except OSError:
                pass


def names_that_change(host: str, first: str, then: str) -> Callable[[str, int], Awaitable[list[Any]]]:
    """Return a look-up, as `getaddrinfo` answers, that gives `first` once for `host` and `then` ever after."""
    left = [first]

    async def lookup(name: str, port: int) -> list[Any]:
        if name != host:
            return socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
        address = left.pop() if left else then
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))]

    return lookup


@contextmanager
def hostile_site(canary_url: str = "http://127.0.0.1:9", *, seed: int = 0) -> Iterator[HostileSite]:
    """Serve all hostile pages within the context; those of the address guard contact `canary_url`."""
    server = SiteServer()
    kit = Kit(server, random.Random(f"hostile:{seed}"), num=(NUM_TILES, NUM_TILES), style="hashed")
    kit.uses_cdn, kit.spelling = False, "path"
    tile = f'<li {kit.c("tile")}><img {kit.c("picture")} src="{{{{best}}}}" alt="{{{{title}}}}"></li>'
    listing = f"<main><ul {kit.c('grid')}>{fill_all(tile, kit.items())}</ul></main>"
    kit.add_truth(kit.items())
    pages: dict[str, HostilePage] = {}

    def add(name: str, shows: Any, body: str, *, head: str = "", **reply: Any) -> None:
        head = f"<head><meta charset=utf-8><title>{name}</title>{head}</head>"
        text = f"<!doctype html><html>{head}<body>{body}</body></html>"
        path = kit.page(f"/hostile/{name}", Reply(text, **reply))
        pages[name] = HostilePage(server.origin + path, shows)

    for name, (shows, before, after) in SCRIPTED.items():
        add(name, shows, f"<script>{before}</script>{listing}<script>{after}</script>")
    _add_documents(kit, add, listing)
    _add_contacts(kit, add, listing, canary_url)
    _add_helpers(kit, listing)
    server.start()
    try:
        yield HostileSite(server, pages, kit.truth)
    finally:
        server.close()


def _add_documents(kit: Kit, add: Callable[..., None], listing: str) -> None:
    """Add pages that are hostile by their document or headers rather than by a script."""
    add("refresh-loop", "nothing", "", head='<meta http-equiv="refresh" content="0">')
    add("refresh-news", "tiles", listing, head='<meta http-equiv="refresh" content="3">')
    add("redirect-chain", "tiles", "<script>location.replace('/hop/1')</script>")
    for hop in range(1, 4):
        goal = "/hop/end" if hop == 3 else f"/hop/{hop + 1}"
        kit.page(f"/hop/{hop}", Reply(f"<!doctype html><script>location.replace('{goal}')</script>"))
    kit.page("/hop/end", Reply(f"<!doctype html><meta charset=utf-8>{listing}"))
    add("redirect-loop", "nothing", "", status=302, headers={"Location": "/hostile/redirect-loop"})
    add("never-ends", "tiles", listing, drip_s=0.3)
    add("attachment", "nothing", listing, headers={"Content-Disposition": 'attachment; filename="free.exe"'})
    add("password", "nothing", "", status=401, headers={"WWW-Authenticate": 'Basic realm="You"'})
    add("silent", "nothing", listing, delay_s=120)
    add("no-answer", "nothing", "", status=204)
    add("deep", "either", "<div>" * 3000 + listing)
    # The same tiles under ever new addresses, as calendars and session ids make them.
    more = f"{listing}<a rel=next href='?s=%s'>Next</a>"
    add("endless-pages", "tiles", "")
    kit.route("/hostile/endless-pages", lambda _: Reply(f"<!doctype html>{more % kit.rng.getrandbits(32)}"))
    script = (
        "addEventListener('scroll', () => { const g = document.querySelector('main ul'); "
        "g.append(...[...g.children].slice(0, 24).map((c) => c.cloneNode(true))) })"
    )
    add("endless-scroll", "tiles", f"{listing}<div style='height:900px'></div><script>{script}</script>")


def _add_contacts(kit: Kit, add: Callable[..., None], listing: str, canary_url: str) -> None:
    """Add pages that make the browser contact the canary: by what they hold, and by where they lead."""
    place = canary_url.removeprefix("http://")
    ways = CONTACTS.read_text(encoding="utf-8").replace("CANARY", canary_url).replace("PLACE", place)
    add("contacts", "tiles", listing + ways)
    kit.page("/to-canary", Reply("", status=302, headers={"Location": f"{canary_url}/redirected"}))
    goal = f"{canary_url}/navigated"
    add("leads-away-script", "nothing", f"<script>location.replace('{goal}')</script>")
    add("leads-away-late", "either", f"{listing}<script>setTimeout(() => {{ location = '{goal}' }}, 900)</script>")
    add("leads-away-refresh", "nothing", "", head=f'<meta http-equiv="refresh" content="0;url={goal}">')
    add("leads-away-http", "nothing", "", status=302, headers={"Location": goal})
    add(
        "leads-away-form",
        "nothing",
        f"<form action='{goal}' method=post></form><script>document.forms[0].submit()</script>",
    )
    add("leads-away-header", "either", listing, headers={"Refresh": f"0;url={goal}"})
    add("early-hints", "tiles", listing, headers={"Link": f"<{canary_url}/hint>; rel=preload; as=image"})


def _add_helpers(kit: Kit, listing: str) -> None:
    kit.page("/popup", Reply("<!doctype html><script>alert('Pop-up'); setInterval(() => open('/popup'), 100)</script>"))
    kit.page("/poll", Reply("{}", "application/json", delay_s=20))
    kit.page("/pixel", Reply(b"GIF89a", "image/gif"))
    kit.page("/worker.js", Reply("onfetch = () => 0", "text/javascript"))
    kit.page("/file.zip", Reply(b"PK" + bytes(200_000), "application/zip"))
    kit.page("/robots.txt", Reply("User-agent: *\nDisallow:\n", "text/plain"))
