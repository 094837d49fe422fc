"""A door to an S3 server: what one ServiceAccount's rights allow goes through, the rest gets 403, as from S3."""

import http.client
import re
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit

May = Callable[[str, str], bool]  # (kind, key below the store) -> whether
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
HOP = {"connection", "transfer-encoding", "keep-alive"}


class Guard(ThreadingHTTPServer):
    """Serves on a free port of loopback while in its block; `refused` is what it did not let through."""

    daemon_threads = True

    def __init__(self, server: str, may: May, folder: str = "store") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.server, self.may, self.folder = urlsplit(server).netloc, may, folder
        self.refused: set[tuple[str, str]] = set()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def allows(self, kind: str, key: str) -> bool:
        """Whether it is a list, or a right to a key below the store."""
        inside = key.removeprefix(f"{self.folder}/")
        if kind == "list" or (inside != key and self.may(kind, inside)):
            return True
        self.refused.add((kind, key))
        return False


class Handler(BaseHTTPRequestHandler):
    """Passes a request on as it came: its signature covers the Host header, which stays."""

    protocol_version = "HTTP/1.1"
    server: Guard

    def handle_any(self) -> None:
        body = self._body()
        if not all(self.server.allows(kind, key) for kind, key in rights(self.command, self.path, body)):
            return self._answer(403, {"Content-Type": "application/xml"}, DENIED)
        link = http.client.HTTPConnection(self.server.server, timeout=60)
        link.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in HOP:
                link.putheader(name, value)
        if self._chunked:
            link.putheader("Transfer-Encoding", "chunked")
            link.endheaders(iter([body]), encode_chunked=True)
        else:
            link.endheaders(body or None)
        answer = link.getresponse()
        data = answer.read()
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in HOP}
        self._answer(answer.status, headers, data)
        link.close()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

    def log_message(self, *_: object) -> None:
        """Nothing: `refused` tells."""

    def _body(self) -> bytes:
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
            del self.headers["Expect"]
        if not self._chunked:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            continue  # trailers of HTTP; S3's own are within the body
        return b"".join(parts)

    @property
    def _chunked(self) -> bool:
        return "chunked" in self.headers.get("Transfer-Encoding", "")

    def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if self.command == "HEAD" or name.lower() != "content-length":
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def rights(method: str, target: str, body: bytes) -> list[tuple[str, str]]:
    """What a request needs, as (kind, key); S3's own actions are in modules/policies/main.tf."""
    parts = urlsplit(target)
    _, _, key = unquote(parts.path).lstrip("/").partition("/")
    query = parse_qs(parts.query, keep_blank_values=True)
    if not key:
        if "delete" in query:
            return [("delete", name.decode()) for name in re.findall(rb"<Key>(.*?)</Key>", body)]
        return [("list" if method in ("GET", "HEAD") else "make", "")]
    if method == "DELETE":
        return [("write" if "uploadId" in query else "delete", key)]
    return [("read" if method in ("GET", "HEAD") else "write", key)]
