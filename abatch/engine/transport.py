"""Make the connections of abatch's own client: sockets, certificates, proxies."""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING, Final

import httpx2

from abatch.engine.read_ahead import read_ahead
from abatch.errors import ConfigError
from abatch.log import log

if TYPE_CHECKING:
    import ssl


__all__ = ["KEPT_CONNECTIONS", "Nowhere", "check_plain", "http_client", "trusted"]

USER_TIMEOUT_MS: Final = 60_000
CONNECTIONS: Final = 1000
"""The maximum number of connections of one transport, as in the SDK."""
KEPT_CONNECTIONS: Final = 100


def _socket_options() -> list[tuple[int, int, int]]:
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    if sys.platform == "linux":
        options += [
            (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 20),
            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
        ]
    return options


def trusted() -> ssl.SSLContext:
    """Load the trusted certificates: those of SSL_CERT_FILE or SSL_CERT_DIR, or else the system's.

    Raises:
        ConfigError: the certificates cannot be loaded.

    """
    try:
        return httpx2.create_ssl_context()
    except OSError as failure:  # This includes ssl.SSLError.
        for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
            if named := os.environ.get(variable):
                why = failure.strerror or type(failure).__name__
                raise ConfigError(
                    f"{variable}={named} cannot be used ({why}); set it to certificates in the form PEM, or unset it"
                ) from failure
        raise ConfigError(f"the system's certificates cannot be read ({failure}); set SSL_CERT_FILE") from failure


def http_client(
    certificates: ssl.SSLContext, proxy: str | None, *, kept: int, for_creates: bool = False
) -> httpx2.AsyncClient:
    """Make an HTTP client with abatch's own connections; `kept` of them stay open between calls."""
    transport = httpx2.AsyncHTTPTransport(
        verify=certificates,
        limits=httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=kept),
        proxy=None
        if proxy is None
        else httpx2.Proxy(proxy, ssl_context=certificates if proxy[:6] == "https:" else None),
        socket_options=_socket_options(),
    )
    if for_creates:
        read_ahead(transport)
    return httpx2.AsyncClient(transport=transport, follow_redirects=False, trust_env=False)


class Nowhere(httpx2.AsyncBaseTransport):
    """A transport without connections, for a client that is never called."""


def check_plain(url: httpx2.URL) -> None:
    """Refuse to send the key in the clear, unless the operator allows it for this host.

    Raises:
        ConfigError: ABATCH_ALLOW_HTTP does not name the host.

    """
    if url.scheme == "http" and url.host in os.environ.get("ABATCH_ALLOW_HTTP", "").replace(",", " ").lower().split():
        log.warning("key_sent_in_the_clear", host=url.host)
        return
    raise ConfigError(
        f"base URL {url} would send the API key in the clear; use https. If the network between here and "
        f"{url.host} is your own, for instance of one Docker host: ABATCH_ALLOW_HTTP={url.host}"
    )
