"""Which URLs and addresses a callback may go to. Pure.

A callback must not be a way into the operator's own network: https to public addresses, or what the operator lists.
"""

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

# IPv6 addresses that lead to an IPv4 address, and where in them it stands (bits from the right).
CARRIERS = (
    (ip_network("64:ff9b::/96"), 0),  # NAT64, RFC 6052
    (ip_network("64:ff9b:1::/48"), 0),  # NAT64 of a local network, RFC 8215
    (ip_network("2002::/16"), 80),  # 6to4, RFC 3056
    (ip_network("::/96"), 0),  # IPv4-compatible, RFC 4291
)
PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class Target:
    """Where a callback goes. `trusted`: the operator lists it, so it may be http and private."""

    scheme: str
    host: str
    port: int
    path: str
    trusted: bool


def target(url: str, allowed: Collection[str]) -> Target:
    """A callback's URL, taken apart. `allowed`: scheme://host[:port] that the operator trusts. ValueError says what is wrong."""
    parts = urlsplit(url)
    if parts.scheme not in PORTS or not parts.hostname or parts.username or parts.password:
        raise ValueError("it is no absolute http or https URL")
    port = parts.port or PORTS[parts.scheme]
    trusted = (parts.scheme, parts.hostname, port) in {_origin(one) for one in allowed}
    if parts.scheme == "http" and not trusted:
        raise ValueError("callbacks go by https, unless the operator lists the host in SFSYNC_CALLBACK_ALLOWED_HOSTS")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, parts.hostname, port, path, trusted)


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or PORTS.get(parts.scheme, 0)


def is_public(address: str) -> bool:
    """Whether an address (as a resolver gives it) is one of the open internet, also where an IPv6 address hides an IPv4 one."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        return _is_global(found.ipv4_mapped)
    if isinstance(found, IPv6Address):
        return "%" not in address and _is_global(found) and all(_is_global(one) for one in _carried(found))
    return _is_global(found)


def _is_global(address: IPv4Address | IPv6Address) -> bool:
    return address.is_global and not address.is_multicast and not address.is_reserved and not address.is_unspecified


def _carried(address: IPv6Address) -> list[IPv4Address]:
    found = [address.sixtofour] if address.sixtofour is not None else []
    found += list(address.teredo or ())
    found += [IPv4Address(int(address) >> shift & 0xFFFFFFFF) for network, shift in CARRIERS if address in network]
    return found
