"""HEAD: every route that answers GET answers HEAD with the same headers and no body (RFC 9110, section 9.3.2)."""

from __future__ import annotations

from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadMiddleware:
    """Runs the route of GET until its headers are there: FastAPI's routes answer only the method that they name."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a HEAD; pass other requests on."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            return await self.app(scope, receive, send)

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                # Ends the route: the body of a download would be read from the store for nobody.
                raise _HeadSentError

        # A shallow copy: the state in it is that of the request, which other middlewares read.
        with suppress(_HeadSentError):
            await self.app(dict(scope, method="GET"), receive, send_head)
        return None


class _HeadSentError(Exception):
    """Everything that a HEAD asks for was sent."""
