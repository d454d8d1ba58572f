"""Addresses of clients: how they are read, and which of them count as one client."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

Address = IPv4Address | IPv6Address


def read_address(text: str) -> Address | None:
    """Returns the address in a text, None if there is none; an IPv4 address that is written as IPv6 as the former."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # A dual-stack socket shows an IPv4 client as ::ffff:a.b.c.d, and networks are written as plain IPv4.
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(maxsize=4096)
def client_of(text: str) -> str:
    """Returns who is counted in limits: an IPv4 address, or the /64 of an IPv6 address, which one client has alone."""
    address = read_address(text)
    if address is None or address.version == 4:
        return text if address is None else str(address)
    return str(ip_network((address, 64), strict=False))
