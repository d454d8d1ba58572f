"""The client's address: that of the socket, or the one that a trusted proxy reports."""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from wallet.runtime.addresses import Address, read_address

Network = IPv4Network | IPv6Network

ENTRIES_MAX: Final = 20
"""How many hops of X-Forwarded-For are looked at; no honest chain is longer."""


def client_ip(peer: str, forwarded_for: str | None, trusted_proxies: Sequence[Network]) -> str:
    """The address nearest to us that is not a trusted proxy's.

    X-Forwarded-For is read from the right, because only what our own proxies appended can be believed: the
    first address that is not one of theirs is the client. An entry that is no address ends the walk.
    """
    if not trusted_proxies or forwarded_for is None:
        return peer
    nearest = _parse(peer)
    if nearest is None or not _is_trusted(nearest, trusted_proxies):
        return peer
    for entry in reversed(forwarded_for.rsplit(",", ENTRIES_MAX)[-ENTRIES_MAX:]):
        address = _parse(entry)
        if address is None:
            break
        nearest = address
        if not _is_trusted(address, trusted_proxies):
            break
    return str(nearest)


def _is_trusted(address: Address, trusted_proxies: Sequence[Network]) -> bool:
    return any(address in network for network in trusted_proxies)


def _parse(entry: str) -> Address | None:
    text = entry.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    return read_address(text)
