"""A small real HTTP server on loopback; each test defines what its paths answer."""

import io
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image, ImageDraw


class Site:
    """A site with routes {path: f(handler)}; `log` holds the requested paths in order, `times` when."""

    def __init__(self, routes=None):
        self.routes, self.log, self.times = dict(routes or {}), [], []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def _handler(site):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                site.log.append(self.path)
                site.times.append(time.monotonic())
                route = site.routes.get(self.path) or site.routes.get(self.path.partition("?")[0])
                try:
                    (route or answer(404))(self)
                except OSError:
                    self.close_connection = True

            def log_message(self, *_):
                pass

        return Handler


def answer(status=200, body=b"", **headers):
    """Return a route that always gives the same response."""

    def route(handler):
        handler.send_response(status)
        for name, value in {"Content_Length": len(body), **headers}.items():
            handler.send_header(name.replace("_", "-"), str(value))
        handler.end_headers()
        handler.wfile.write(body)

    return route


OK = answer(200, b"picture", Content_Type="image/png")


def in_turn(*routes):
    """Return a route that uses one of these after the other, and the last one from then on."""
    left = list(routes)
    return lambda handler: (left.pop(0) if len(left) > 1 else left[0])(handler)


def drip(body, every_s, *, head=False):
    """Return a route that sends a byte now and then: of the body, or already of the headers."""

    def route(handler):
        text = b"" if head else b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
        handler.wfile.write(text)
        for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 1000 if head else body:
            handler.wfile.write(bytes([byte]))
            time.sleep(every_s)

    return route


def endless(handler):
    """Send a body without an end."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while True:
        handler.wfile.write(b"\x89PNG" * 4096)


def hang_up(handler):
    """Close the connection without a response."""
    handler.close_connection = True
    handler.connection.close()


def emoji(seed=0, size=(64, 64), kind="PNG", **options):
    """Return the bytes of a small image with transparent corners; each seed gives another image."""
    image = Image.new("RGBA", size)
    draw = ImageDraw.Draw(image)
    draw.ellipse((2, 2, size[0] - 3, size[1] - 3), fill=(40 * seed % 256, 90, 200 - seed % 100, 255))
    draw.rectangle((size[0] // 3, size[1] // 3, size[0] // 2, size[1] // 2), fill=(seed % 256, seed // 256, 7, 255))
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()
