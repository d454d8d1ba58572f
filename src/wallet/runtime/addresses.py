"""Addresses: parses those of clients, decides which of them count as one client, and which are loopback."""

import socket
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

Address = IPv4Address | IPv6Address


def read_address(text: str) -> Address | None:
    """Returns the address in a text, or None if it has none. An IPv4 address in IPv6 notation is returned as IPv4."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # A dual-stack socket reports an IPv4 client as ::ffff:a.b.c.d, but networks are configured as plain IPv4.
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(maxsize=4096)
def client_of(text: str) -> str:
    """Returns the client that limits count: an IPv4 address, or the /64 of an IPv6 address (one client owns it)."""
    address = read_address(text)
    if address is None or address.version == 4:
        return text if address is None else str(address)
    return str(ip_network((address, 64), strict=False))


def is_loopback(host: str) -> bool:
    """Returns whether only this machine can reach this address; also False for a name that can't be resolved."""
    try:
        addresses = [info[4][0] for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except OSError:
        return False
    return all(ip_address(str(address).partition("%")[0]).is_loopback for address in addresses)
