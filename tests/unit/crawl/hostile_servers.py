"""Routes of hostile and broken servers for `stub_site.Site`: {path: (route, expected outcome)}."""

import gzip
import socket
import struct
import zlib

from tests.unit.crawl.stub_site import answer, drip, emoji, endless, hang_up

BOMB = gzip.compress(bytes(10**8), 1)  # 100 MB of zeros in half a megabyte


def raw(*parts, close=True):
    """Return a route that writes these bytes and closes the connection."""

    def route(handler):
        for part in parts:
            handler.wfile.write(part)
        handler.close_connection = close

    return route


def endless_parts(head, part):
    """Return a route that writes the same part again and again."""

    def route(handler):
        handler.wfile.write(head)
        while True:
            handler.wfile.write(part)

    return route


def reset(handler):
    """Reset the connection in the middle of a body."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def png_of_size(width, height):
    """Return a PNG file of a few bytes whose header announces this size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
ROUTES = {
    "/endless": (endless, "too-large"),
    "/promise": (answer(200, b"", Content_Length=10**15), "too-large"),
    "/gzip-bomb": (answer(200, BOMB, Content_Encoding="gzip"), "too-large"),
    "/pixel-bomb": (answer(200, png_of_size(60_000, 60_000)), "too-large"),
    "/gzip-parts": (answer(200, gzip.compress(bytes(10**6)) * 30, Content_Encoding="gzip"), "too-large"),
    "/endless-chunks": (endless_parts(CHUNKED, b"1000\r\n" + bytes(4096) + b"\r\n"), "too-large"),
    "/brotli": (answer(200, b"x" * 100, Content_Encoding="br"), "http-error"),
    "/bad-gzip": (answer(200, b"x" * 100, Content_Encoding="gzip"), "http-error"),
    "/short-gzip": (answer(200, gzip.compress(emoji())[:-20], Content_Encoding="gzip"), "http-error"),
    "/header-bomb": (endless_parts(OK, b"X-Bomb: " + b"x" * 1000 + b"\r\n"), "unreachable"),
    "/long-header": (endless_parts(OK + b"X-Long: ", b"x" * 4096), "unreachable"),
    "/continue": (endless_parts(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "timed-out"),
    "/garbage": (raw(b"\x00\xff" * 5000), "unreachable"),
    "/not-http": (raw(b"SSH-2.0-OpenSSH_9.6\r\n"), "unreachable"),
    "/bad-status": (raw(b"HTTP/1.1 twohundred OK\r\n\r\n"), "unreachable"),
    "/too-short": (raw(OK + b"Content-Length: 1000\r\n\r\n" + b"x" * 10), "unreachable"),
    "/bad-length": (raw(OK + b"Content-Length: -5\r\n\r\n" + b"x" * 10), "unreachable"),
    "/bad-chunks": (raw(CHUNKED + b"zzz\r\n"), "unreachable"),
    "/reset": (reset, "unreachable"),
    "/hang-up": (hang_up, "unreachable"),
    "/page": (answer(200, b"<html>" * 100, Content_Type="image/png"), "not-an-image"),
    "/cut": (answer(200, emoji()[:-30]), "not-an-image"),
    "/nothing": (answer(200, b""), "not-an-image"),
    "/drip": (drip(b"x" * 1000, 0.1), "timed-out"),
    "/drip-head": (drip(b"", 0.1, head=True), "timed-out"),
    "/loop": (answer(302, Location="/loop"), "http-error"),
    "/nowhere": (answer(302, Location="http://[::1"), "http-error"),
    "/to-file": (answer(302, Location="file:///etc/passwd"), "blocked-address"),
    "/to-metadata": (answer(302, Location="http://169.254.169.254/latest"), "blocked-address"),
    "/to-mapped": (answer(302, Location="http://[::ffff:127.0.0.1]/"), "blocked-address"),
    "/to-odd": (answer(302, Location="http://2130706433/"), "blocked-address"),
    "/to-name": (answer(302, Location="http://localhost:1/"), "blocked-address"),
    "/two-hops": (answer(302, Location="/to-metadata"), "blocked-address"),
    "/good": (answer(200, emoji()), "kept"),
    "/good-gzip": (answer(200, gzip.compress(emoji(1)), Content_Encoding="gzip"), "kept"),
    "/good-deflate": (answer(200, zlib.compress(emoji(2)), Content_Encoding="deflate"), "kept"),
    "/too-long": (raw(OK + b"Content-Length: %d\r\n\r\n" % len(emoji(3)) + emoji(3) + b"HTTP/1.1 200 OK\r\n"), "kept"),
}  # fmt: skip
