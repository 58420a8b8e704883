"""What an HTTP client shows of itself: RFC 7617 (Basic), and where it comes from. Pure."""

import base64
import binascii
import ipaddress

CHARACTERS_MAX = 1_024
"""The longest header that is taken apart."""


def credentials(header: str) -> tuple[str, str]:
    """Return user and password of an `Authorization: Basic` header, both empty for garbage."""
    scheme, _, encoded = header[:CHARACTERS_MAX].strip().partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, ValueError):  # no base64, or no UTF-8
        return "", ""
    user, _, password = text.partition(":")
    return user, password


def network(host: str) -> str:
    """Return who is slowed down for a peer: its address, its /64 where it is of IPv6."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
