"""Which addresses are of the internet, and not of this host or of the networks that it is in.

By these a sandbox is let out that may reach every host of the internet: what listens here or next door (Temporal, a
database, a cloud's metadata on 169.254.169.254) often asks nobody who they are.
"""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

_NAT64 = IPv6Network("64:ff9b::/96")
_HOSTS_OWN = {ip_address("168.63.129.16")}
"""Azure's WireServer: a public address, answered by the host with the machine's configuration."""
_LOCAL = tuple(".localhost .local .localdomain .internal .intranet .lan .home .corp .private .arpa".split())


async def resolved(host: str) -> list[str]:
    """Each address once. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(place[0]) for *_, place in found))


def is_public(text: str) -> bool:
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address):
        address = _embedded(address) or address
        if address.version == 6 and address.is_site_local:
            return False
    if address in _HOSTS_OWN:
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or _is_ours(address))


def is_evidently_local(host: str) -> bool:
    """For where somebody else resolves the name: the proxy that the worker's environment names."""
    return ("." not in host and ":" not in host) or host.endswith(_LOCAL)


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """Where a packet to it ends in the end."""
    if address in _NAT64:
        return IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address.sixtofour


def _is_ours(address: IPv4Address | IPv6Address) -> bool:
    """Of an interface of this host: what goes there also comes from there. Nothing is sent to find out."""
    with socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            asked.connect((str(address), 9))
        except OSError:  # no way there
            return False
        return ip_address(asked.getsockname()[0].partition("%")[0]) == address
