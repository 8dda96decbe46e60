"""Decide to which addresses a webhook may connect, so that its URL cannot reach a service of the inner network. Pure.

The address is judged, not the name, and the connection goes to the judged address: a name that resolves to another
address a moment later (DNS rebinding) changes nothing.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

__all__ = ["refusal"]

METADATA: Final = frozenset(map(ip_address, ("169.254.169.254", "168.63.129.16", "100.100.100.200", "fd00:ec2::254")))
"""Addresses at which clouds give credentials to a machine."""
TRANSLATED: Final = tuple(map(ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96")))
"""IPv6 networks whose addresses contain an IPv4 address: NAT64, 6to4, Teredo, IPv4-compatible."""


def refusal(address: str, *, allow_private: bool) -> str | None:
    """Return why a webhook may not connect to this address; None if it may.

    Args:
        address: an address as a resolver returns it.
        allow_private: whether addresses of private networks and of this machine are allowed. Addresses of metadata
            services, link-local, multicast and unspecified addresses, and IPv6 addresses that contain an IPv4 address
            are never allowed.

    """
    try:
        ip = ip_address(address)
    except ValueError:
        return "is not an address"
    if isinstance(ip, IPv6Address) and ip.scope_id is not None:
        return "is a link-local address"
    if ip in METADATA:
        return "is an address of a metadata service"
    if (always := _never_allowed(ip)) is not None:
        return always
    if ip.is_loopback:
        return None if allow_private else "is an address of this machine"
    if ip.is_global:
        return None
    return None if allow_private and not ip.is_reserved else "is an address of a private network"


def _never_allowed(ip: IPv4Address | IPv6Address) -> str | None:
    if ip.is_unspecified:
        return "is the unspecified address"
    if ip.is_multicast:
        return "is a multicast address"
    if ip.is_link_local:
        return "is a link-local address"
    if isinstance(ip, IPv6Address) and not ip.is_loopback:
        if ip.ipv4_mapped is not None or any(ip in network for network in TRANSLATED):
            return "contains an IPv4 address"
        if ip.is_site_local:
            return "is a site-local address"
    return None
