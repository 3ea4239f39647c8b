"""The requests that penstock sends, the versions it speaks, and the choice of one with a broker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Final, NamedTuple

from ..errors import UnsupportedVersionError


class Api(IntEnum):
    """Kafka's API keys. Source: https://kafka.apache.org/protocol#protocol_api_keys"""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    LEAVE_GROUP = 13
    SYNC_GROUP = 14
    DESCRIBE_GROUPS = 15
    LIST_GROUPS = 16
    SASL_HANDSHAKE = 17
    API_VERSIONS = 18
    CREATE_TOPICS = 19
    DELETE_TOPICS = 20
    DELETE_RECORDS = 21
    INIT_PRODUCER_ID = 22
    OFFSET_FOR_LEADER_EPOCH = 23
    ADD_PARTITIONS_TO_TXN = 24
    ADD_OFFSETS_TO_TXN = 25
    END_TXN = 26
    TXN_OFFSET_COMMIT = 28
    DESCRIBE_CONFIGS = 32
    SASL_AUTHENTICATE = 36
    CREATE_PARTITIONS = 37
    DELETE_GROUPS = 42
    OFFSET_DELETE = 47
    DESCRIBE_CLUSTER = 60
    CONSUMER_GROUP_HEARTBEAT = 68
    CONSUMER_GROUP_DESCRIBE = 69
    GET_TELEMETRY_SUBSCRIPTIONS = 71
    PUSH_TELEMETRY = 72


SPOKEN: Final[dict[Api, tuple[int, int]]] = {
    Api.PRODUCE: (
        3,
        12,
    ),  # 12 belongs to transaction.version 2, within a transaction; 13 names topics by id alone
    Api.FETCH: (4, 17),  # encoded and decoded by the native fetch loop
    Api.LIST_OFFSETS: (1, 10),
    Api.METADATA: (1, 13),
    Api.OFFSET_COMMIT: (2, 9),  # 10 names topics by id alone
    Api.OFFSET_FETCH: (1, 9),  # likewise
    Api.FIND_COORDINATOR: (0, 6),
    Api.JOIN_GROUP: (0, 9),
    Api.HEARTBEAT: (0, 4),
    Api.LEAVE_GROUP: (0, 5),
    Api.SYNC_GROUP: (0, 5),
    Api.DESCRIBE_GROUPS: (0, 6),
    Api.LIST_GROUPS: (0, 5),
    Api.API_VERSIONS: (0, 4),
    Api.CREATE_TOPICS: (2, 7),
    Api.DELETE_TOPICS: (1, 6),
    Api.DELETE_RECORDS: (0, 2),
    Api.INIT_PRODUCER_ID: (0, 5),
    Api.OFFSET_FOR_LEADER_EPOCH: (2, 4),
    Api.ADD_PARTITIONS_TO_TXN: (0, 3),  # from 4 on between brokers
    Api.ADD_OFFSETS_TO_TXN: (0, 4),
    Api.END_TXN: (0, 5),  # 5 belongs to transaction.version 2 (KIP-890)
    Api.TXN_OFFSET_COMMIT: (0, 5),  # likewise
    Api.DESCRIBE_CONFIGS: (1, 4),
    Api.CREATE_PARTITIONS: (0, 3),
    Api.DELETE_GROUPS: (0, 2),
    Api.OFFSET_DELETE: (0, 0),
    Api.DESCRIBE_CLUSTER: (0, 2),
    Api.CONSUMER_GROUP_HEARTBEAT: (0, 1),
    Api.CONSUMER_GROUP_DESCRIBE: (0, 1),
    Api.GET_TELEMETRY_SUBSCRIPTIONS: (0, 0),
    Api.PUSH_TELEMETRY: (0, 0),
}
"""Lowest and highest version of each request that penstock encodes and decodes."""


MAY_BE_ABSENT: Final[dict[Api, frozenset[str]]] = {
    Api.LIST_OFFSETS: frozenset({"current_leader_epoch", "isolation_level", "timeout"}),
    Api.METADATA: frozenset({"allow_auto_topic_creation", "include_topic_authorized_operations", "topic_id"}),
    Api.OFFSET_COMMIT: frozenset({"committed_leader_epoch", "group_instance_id", "retention_time"}),
    Api.OFFSET_FETCH: frozenset(
        {"group_id", "groups", "member_epoch", "member_id", "require_stable", "topics"}
    ),
    Api.FIND_COORDINATOR: frozenset({"coordinator_keys", "key", "key_type"}),
    Api.JOIN_GROUP: frozenset({"group_instance_id", "reason", "rebalance_timeout"}),
    Api.HEARTBEAT: frozenset({"group_instance_id", "throttle_time"}),
    Api.LEAVE_GROUP: frozenset({"group_instance_id", "member_id", "members", "reason"}),
    Api.SYNC_GROUP: frozenset({"group_instance_id", "protocol_name", "protocol_type"}),
    Api.DESCRIBE_GROUPS: frozenset({"include_authorized_operations"}),
    Api.LIST_GROUPS: frozenset({"states_filter", "types_filter"}),
    Api.API_VERSIONS: frozenset({"client_software_name", "client_software_version"}),
    Api.DELETE_TOPICS: frozenset({"name", "topic_id", "topic_names", "topics"}),
    Api.INIT_PRODUCER_ID: frozenset({"producer_epoch", "producer_id"}),
    Api.OFFSET_FOR_LEADER_EPOCH: frozenset({"replica_id"}),
    Api.TXN_OFFSET_COMMIT: frozenset(
        {"committed_leader_epoch", "generation_id", "group_instance_id", "member_id"}
    ),
    Api.DESCRIBE_CONFIGS: frozenset({"include_documentation"}),
    Api.DESCRIBE_CLUSTER: frozenset({"endpoint_type", "include_fenced_brokers"}),
    Api.CONSUMER_GROUP_HEARTBEAT: frozenset({"subscribed_topic_regex"}),
}
"""Fields that some spoken version of a request lacks, or has at another depth: left out where they are not.
Any other name that a request does not have is a mistake of the caller."""


class Features(NamedTuple):
    """What a cluster has switched on for all its brokers (KIP-584). `epoch` rises with each change; -1: the broker did not say.
    `levels`: the finalized level by the feature's name."""

    epoch: int = -1
    levels: Mapping[str, int] = MappingProxyType({})


NO_FEATURES: Final = Features()


class BrokerVersions:
    """What one broker answered to ApiVersions, met with what penstock speaks."""

    def __init__(
        self, broker: str, ranges: Iterable[tuple[int, int, int]], features: Features = NO_FEATURES
    ) -> None:
        """`broker` names it in errors; `ranges` holds (api key, lowest version, highest version)."""
        self.features = features
        self._broker = broker
        self._ranges = {key: (low, high) for key, low, high in ranges}

    def offers(self, api: Api) -> bool:
        """Whether both sides have a version of this request in common."""
        return self._common(api) is not None

    def reaches(self, api: Api, version: int) -> bool:
        """Whether both sides have this version of this request, or a higher one."""
        common = self._common(api)
        return common is not None and common[1] >= version

    def pick(self, api: Api, at_most: int | None = None) -> int:
        """The highest version in common (at most `at_most`). UnsupportedVersionError where there is none."""
        common = self._common(api)
        if common is not None:
            low, high = common
            version = high if at_most is None else min(high, at_most)
            if version >= low:
                return version
        theirs = self._ranges.get(int(api))
        has = f"versions {theirs[0]} to {theirs[1]}" if theirs else "no version"
        low, high = SPOKEN[api]
        raise UnsupportedVersionError(
            f"broker {self._broker} offers {has} of {api.name}, penstock speaks {low} to "
            f"{high if at_most is None else at_most}: is it an Apache Kafka from 2.1 on?"
        )

    def _common(self, api: Api) -> tuple[int, int] | None:
        theirs = self._ranges.get(int(api))
        if theirs is None or api not in SPOKEN:
            return None
        low, high = max(theirs[0], SPOKEN[api][0]), min(theirs[1], SPOKEN[api][1])
        return (low, high) if low <= high else None
