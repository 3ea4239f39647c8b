"""What the broker speaks: one row per API, one file per API beside this one.

Such a file has `handle(call)`, which returns the fields of the response (or an awaitable of them, for what waits; None
for no response at all), and `refuse(body, code)`, which gives the response that says this error of everything asked.
Source: https://kafka.apache.org/protocol#protocol_api_keys
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from penstock.devbroker.cluster import Cluster
    from penstock.devbroker.coordinator import Coordinator, TransactionCoordinator
    from penstock.devbroker.server import Connection, Server
    from penstock.devbroker.wire import Request

Fields = Mapping[str, Any]
Answer = Fields | None | Awaitable[Fields | None]


@dataclass(frozen=True, slots=True)
class Call:
    """One request on its way to its handler."""

    server: Server
    connection: Connection
    request: Request

    @property
    def body(self) -> Any:
        return self.request.body

    @property
    def version(self) -> int:
        return self.request.version

    @property
    def cluster(self) -> Cluster:
        return self.server.cluster

    @property
    def groups(self) -> Coordinator:
        return self.server.groups

    @property
    def transactions(self) -> TransactionCoordinator:
        return self.server.transactions

    @property
    def served(self) -> tuple[Api, ...]:
        """What this broker offers, by its options."""
        options = self.cluster.options
        consumer = "consumer" in options.values["group.coordinator.rebalance.protocols"]
        before = VERSIONS_BEFORE_2 if options.number("transaction.version") < 2 else {}
        return tuple(
            api._replace(high=before.get(api.key, api.high))
            for api in APIS.values()
            if consumer or api.key not in CONSUMER_GROUP_APIS
        )


class Api(NamedTuple):
    """`low` to `high`: the versions that are served."""

    key: int
    name: str
    low: int
    high: int

    def load(self) -> tuple[Callable[[Call], Answer], Callable[[Any, int], Fields]]:
        """(handle, refuse), imported when first needed."""
        module = importlib.import_module(f"{__name__}.{self.name}")
        return module.handle, module.refuse


APIS: dict[int, Api] = {
    api.key: api
    for api in (
        Api(0, "produce", 3, 13),
        Api(1, "fetch", 4, 17),
        Api(2, "list_offsets", 1, 10),
        Api(3, "metadata", 0, 13),
        Api(8, "offset_commit", 2, 10),
        Api(9, "offset_fetch", 1, 10),
        Api(10, "find_coordinator", 0, 6),
        Api(11, "join_group", 0, 9),
        Api(12, "heartbeat", 0, 4),
        Api(13, "leave_group", 0, 5),
        Api(14, "sync_group", 0, 5),
        Api(15, "describe_groups", 0, 6),
        Api(16, "list_groups", 0, 5),
        Api(18, "api_versions", 0, 4),
        Api(19, "create_topics", 2, 7),
        Api(20, "delete_topics", 1, 6),
        Api(21, "delete_records", 0, 2),
        Api(22, "init_producer_id", 0, 5),
        Api(23, "offset_for_leader_epoch", 2, 4),
        # From version 4 on AddPartitionsToTxn is for brokers (KIP-890).
        Api(24, "add_partitions_to_txn", 0, 3),
        Api(25, "add_offsets_to_txn", 0, 4),
        Api(26, "end_txn", 0, 5),
        Api(28, "txn_offset_commit", 0, 5),
        Api(32, "describe_configs", 1, 4),
        Api(37, "create_partitions", 0, 3),
        Api(42, "delete_groups", 0, 2),
        Api(47, "offset_delete", 0, 0),
        Api(60, "describe_cluster", 0, 2),
        Api(68, "consumer_group_heartbeat", 0, 1),
        Api(69, "consumer_group_describe", 0, 1),
        Api(71, "get_telemetry_subscriptions", 0, 0),
        Api(72, "push_telemetry", 0, 0),
    )
}

CONSUMER_GROUP_APIS = frozenset({68, 69})  # KIP-848
VERSIONS_BEFORE_2 = {26: 4, 28: 4}
"""The highest ones by the key, without the feature transaction.version 2 (KIP-890)."""
