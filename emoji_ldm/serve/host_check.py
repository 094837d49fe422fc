"""Who may reach the service: which addresses need keys, and which names requests may call it by.

A web page of a stranger can make a browser send requests to any address that the browser reaches, also to a service on
its own machine or network. If the page's host name is made to mean that address while the page is open (DNS rebinding),
the browser even takes both for one origin, and the page may read the answers. The name stays in the header `Host`: a
service that answers only to names that it has cannot be called by such a page.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from emoji_ldm.config.serve import ServeConfig
from emoji_ldm.errors import ConfigError
from emoji_ldm.serve.errors import RequestError

LOCAL_NAMES = ("localhost",)


def require_keys(settings: ServeConfig) -> None:
    """Raise ConfigError if other machines can reach the service, it asks for no key, and nobody has allowed that."""
    if settings.keys or settings.anonymous or is_loopback(settings.host):
        return
    raise ConfigError(
        f"serve.host={settings.host} lets everybody who reaches this machine generate images: make keys with "
        "`emoji-ldm keys add NAME serve.keys=keys.json` and serve with serve.keys=keys.json, or allow it with "
        "serve.anonymous=true"
    )


def served_hosts(settings: ServeConfig) -> Collection[str] | None:
    """Return the names that requests may call the service by; None: any.

    With keys, a page of a stranger cannot do anything, since browsers send keys by themselves to nobody: then only a
    list that is configured restricts the names. They differ between clusters, and load balancers use their own.
    """
    if settings.hosts:
        return (*LOCAL_NAMES, settings.host, *settings.hosts)
    return None if settings.keys else (*LOCAL_NAMES, settings.host)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class HostMiddleware:
    """Refuses requests that call the service by an unknown name. Addresses are no names: no page can rebind one."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        """Wrap an application; `*.example.org` among the hosts stands for all names below it."""
        self.app, self.hosts = app, {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403, or pass the request on."""
        if scope["type"] == "http" and not self._is_known(Headers(scope=scope).get("host", "")):
            refusal = RequestError("this service is not called so; add the name with serve.hosts='[NAME]'", status=403,
                                   code="unknown_host")  # fmt: skip
            return await refusal.response()(scope, receive, send)
        await self.app(scope, receive, send)
        return None

    def _is_known(self, header: str) -> bool:
        name = _without_port(header).lower().rstrip(".")
        try:
            ipaddress.ip_address(name)
        except ValueError:
            # HTTP/1.0 clients and some probes send no Host at all; browsers always do.
            return not name or "*" in self.hosts or name in self.hosts or any(
                host.startswith("*.") and name.endswith(host[1:]) for host in self.hosts
            )  # fmt: skip
        return True


def _without_port(header: str) -> str:
    if header.startswith("["):  # an IPv6 address (RFC 3986, section 3.2.2)
        return header[1:].partition("]")[0]
    return header.partition(":")[0]
