"""Bootstrap addresses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_bootstrap(servers: Sequence[str]) -> tuple[Address, ...]:
    """'host:port' entries, which the configuration has checked, with IPv6 addresses in brackets."""
    addresses = []
    for server in servers:
        host, _, port = server.strip().rpartition(":")
        host = host.rpartition("//")[2]  # PLAINTEXT://host:port is accepted, as Java's does
        addresses.append(Address(host.strip("[]"), int(port)))
    return tuple(dict.fromkeys(addresses))
