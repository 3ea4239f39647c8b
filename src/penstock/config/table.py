"""The one table of options, and what each client takes from it."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from .option import ClientKind, Option
from .table_common import COMMON
from .table_consumer import CONSUMER_OPTIONS
from .table_producer import PRODUCER_OPTIONS
from .table_security import SECURITY

OPTIONS: Final[tuple[Option, ...]] = (*CONSUMER_OPTIONS, *PRODUCER_OPTIONS, *COMMON, *SECURITY)


def _of(client: ClientKind) -> MappingProxyType[str, Option]:
    return MappingProxyType({option.name: option for option in OPTIONS if client in option.clients})


BY_CLIENT: Final[MappingProxyType[ClientKind, MappingProxyType[str, Option]]] = MappingProxyType(
    {"consumer": _of("consumer"), "producer": _of("producer"), "admin": _of("admin")}
)
"""Per client, its options by name."""

ASSIGNOR_CLASSES: Final[MappingProxyType[str, str]] = MappingProxyType(
    {
        "org.apache.kafka.clients.consumer.RangeAssignor": "range",
        "org.apache.kafka.clients.consumer.RoundRobinAssignor": "roundrobin",
        "org.apache.kafka.clients.consumer.StickyAssignor": "sticky",
        "org.apache.kafka.clients.consumer.CooperativeStickyAssignor": "cooperative-sticky",
    }
)
"""Kafka's own assignors by the Java class that its documentation names."""
