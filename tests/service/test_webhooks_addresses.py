"""A webhook connects to no address of the inner network, in whatever form it is written."""

from __future__ import annotations

import pytest

from abatch.service.webhooks_addresses import refusal

PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "2a00:1450:4001::1"]
PRIVATE = {
    "127.0.0.1": "this machine",
    "127.8.9.10": "this machine",
    "::1": "this machine",
    "10.0.0.1": "private",
    "172.16.0.1": "private",
    "192.168.1.1": "private",
    "100.64.0.1": "private",  # CGNAT
    "198.18.0.1": "private",
    "fc00::1": "private",
    "fd12:3456::1": "private",
    "2001:db8::1": "private",
}
NEVER = {
    "169.254.169.254": "metadata",
    "168.63.129.16": "metadata",
    "100.100.100.200": "metadata",
    "fd00:ec2::254": "metadata",
    "169.254.0.7": "link-local",
    "fe80::1": "link-local",
    "fe80::1%eth0": "link-local",
    "fec0::1": "site-local",
    "0.0.0.0": "unspecified",
    "::": "unspecified",
    "224.0.0.1": "multicast",
    "239.255.255.250": "multicast",
    "ff02::1": "multicast",
    "ff0e::1": "multicast",
    "240.0.0.1": "private",
    "255.255.255.255": "private",
    "::ffff:8.8.8.8": "contains an IPv4",
    "::ffff:127.0.0.1": "contains an IPv4",
    "::ffff:169.254.169.254": "contains an IPv4",
    "::127.0.0.1": "contains an IPv4",
    "2002:7f00:1::1": "contains an IPv4",
    "64:ff9b::7f00:1": "contains an IPv4",
    "64:ff9b:1::a00:1": "contains an IPv4",
    "2001:0:7f00:1::1": "contains an IPv4",
    "127.1": "not an address",
    "0x7f000001": "not an address",
    "": "not an address",
}


@pytest.mark.parametrize("allow_private", [False, True])
@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_allowed(address: str, allow_private: bool) -> None:
    assert refusal(address, allow_private=allow_private) is None


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_is_allowed_only_where_the_operator_allows_it(address: str) -> None:
    assert PRIVATE[address] in (refusal(address, allow_private=False) or "")
    assert refusal(address, allow_private=True) is None


@pytest.mark.parametrize("allow_private", [False, True])
@pytest.mark.parametrize("address", NEVER)
def test_some_addresses_are_never_allowed(address: str, allow_private: bool) -> None:
    assert NEVER[address] in (refusal(address, allow_private=allow_private) or "")
