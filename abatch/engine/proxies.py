"""Find the proxy that the environment names for an address, in one place for every connection to it.

The HTTP libraries read `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` in different ways: one accepts `*.example.com` in
`NO_PROXY`, another does not, so a create might use the proxy while the results are requested without it. Therefore the
proxy is chosen here, and no library reads the environment. The lower-case name of a variable takes precedence. Without
any such variable, the settings of the system count if Python knows them (macOS, Windows). A loopback address never uses
a proxy.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import urllib.request
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from abatch.errors import ConfigError

__all__ = ["is_loopback", "proxy_for", "speaks_socks"]

SCHEMES: Final = frozenset({"http", "https", "socks5", "socks5h"})
PORTS: Final = {"http": 80, "https": 443}


def proxy_for(scheme: str, host: str, port: int | None) -> str | None:
    """Return the proxy's URL for an address; None if the address is reached directly.

    Raises:
        ConfigError: the proxy that the environment names cannot be used.

    """
    if is_loopback(host):
        return None
    proxies = urllib.request.getproxies()
    url = proxies.get(scheme) or proxies.get("all")
    if not url:
        return None
    if urllib.request.getproxies_environment():
        bypassed = _is_listed(scheme, host, port or PORTS.get(scheme), proxies.get("no", ""))
    else:
        bypassed = bool(urllib.request.proxy_bypass(host))
    return None if bypassed else _checked(url, _variable_of(url, scheme))


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def speaks_socks() -> bool:
    """Return whether the package that SOCKS proxies need is installed."""
    return importlib.util.find_spec("socksio") is not None


def _is_listed(scheme: str, host: str, port: int | None, no_proxy: str) -> bool:
    """Return whether `NO_PROXY` lists an address by name, parent domain, address or network; each may have a port."""
    return any(_matches(entry.lower(), scheme, host, port) for entry in no_proxy.replace(",", " ").split())


def _matches(entry: str, scheme: str, host: str, port: int | None) -> bool:
    if entry == "*":
        return True
    of_scheme, divided, rest = entry.partition("://")
    if divided:
        if of_scheme not in (scheme, "all"):
            return False
        entry = rest
    name, its_port = _split_port(entry)
    if its_port is not None and its_port != port:
        return False
    host = host.lower().strip("[]").rstrip(".")
    with suppress(ValueError):
        network = ipaddress.ip_network(name, strict=False)
        try:
            return ipaddress.ip_address(host) in network
        except ValueError:  # The host is a name, which is not resolved.
            return False
    name = name.removeprefix("*").lstrip(".").rstrip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _split_port(entry: str) -> tuple[str, int | None]:
    if entry.startswith("["):
        name, _, behind = entry[1:].partition("]")
        port = behind.removeprefix(":")
    elif entry.count(":") == 1:
        name, _, port = entry.partition(":")
    else:
        return entry, None
    return name, int(port) if port.isdecimal() else None


def _variable_of(url: str, scheme: str) -> str:
    for name in (f"{scheme}_proxy", "all_proxy"):
        for variable in (name, name.upper()):
            if os.environ.get(variable) == url:
                return variable
    return "the system's proxy setting"


def _checked(url: str, variable: str) -> str:
    """Return the proxy's URL with its scheme. Errors about it do not repeat it, because it may hold a password."""
    if "://" not in url:
        url = f"http://{url}"
    refused = ConfigError(f"{variable} is not the address of a proxy; set it to http://HOST:PORT, or unset it")
    if not url.isprintable() or " " in url:
        raise refused
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:  # The error, about the port or brackets, repeats parts of the URL, so it is not chained.
        raise refused from None
    if not usable:
        raise refused
    if parts.scheme not in SCHEMES:
        raise ConfigError(
            f"{variable} names a proxy of the kind {parts.scheme}://; one of http://, https://, socks5:// is possible"
        )
    if parts.scheme.startswith("socks") and not speaks_socks():
        raise ConfigError(
            f"{variable} names a SOCKS proxy, which needs a package that is not installed: pip install socksio; "
            "or name an http:// proxy, or list the API's host in NO_PROXY"
        )
    return f"{parts.scheme}{url[url.index('://') :]}"
