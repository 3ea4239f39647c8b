"""The broker's options and the topics', by Kafka's names. What is not here, the broker does not have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from .codes import Code, RequestRefused


class ConfigType(IntEnum):
    """As DescribeConfigs names value types (KIP-569)."""

    BOOLEAN = 1
    STRING = 2
    INT = 3
    LONG = 5


@dataclass(frozen=True, slots=True)
class Setting:
    default: str
    kind: ConfigType
    meaning: str


# Source: https://kafka.apache.org/documentation/#topicconfigs. Only some of these act here; the others are kept and
# described, so that a program that sets them for production runs against this broker unchanged.
TOPIC_SETTINGS: dict[str, Setting] = {
    "cleanup.policy": Setting("delete", ConfigType.STRING, "kept, without effect: nothing is compacted"),
    "compression.type": Setting(
        "producer", ConfigType.STRING, "kept, without effect: batches stay as produced"
    ),
    "delete.retention.ms": Setting("86400000", ConfigType.LONG, "kept, without effect"),
    "max.message.bytes": Setting("1048588", ConfigType.INT, "the largest record batch"),
    "message.timestamp.type": Setting(
        "CreateTime", ConfigType.STRING, "CreateTime or LogAppendTime (KIP-32)"
    ),
    "min.insync.replicas": Setting("1", ConfigType.INT, "kept, without effect: there is one replica"),
    "retention.bytes": Setting("-1", ConfigType.LONG, "bytes kept per partition, -1 for all"),
    "retention.ms": Setting("604800000", ConfigType.LONG, "kept, without effect: nothing ages"),
    "segment.bytes": Setting("1073741824", ConfigType.INT, "kept, without effect: one segment a partition"),
    "segment.ms": Setting("604800000", ConfigType.LONG, "kept, without effect"),
    "unclean.leader.election.enable": Setting("false", ConfigType.BOOLEAN, "kept, without effect"),
}

# Source: https://kafka.apache.org/documentation/#brokerconfigs; transaction.version is a feature there. Defaults are
# Kafka's but for two, where a test should not wait: group.initial.rebalance.delay.ms (3000) and group.min.session.timeout.ms (6000).
BROKER_SETTINGS: dict[str, Setting] = {
    "auto.create.topics.enable": Setting("true", ConfigType.BOOLEAN, "make a topic on its first use"),
    "group.consumer.heartbeat.interval.ms": Setting(
        "5000", ConfigType.INT, "how often members of the protocol of KIP-848 shall be heard from"
    ),
    "group.consumer.max.size": Setting("2147483647", ConfigType.INT, "the most members of such a group"),
    "group.consumer.migration.policy": Setting(
        "bidirectional",
        ConfigType.STRING,
        "whether a living group may change protocols: disabled, upgrade, downgrade, bidirectional",
    ),
    "group.consumer.session.timeout.ms": Setting(
        "45000", ConfigType.INT, "the silence after which such a member is out"
    ),
    "group.coordinator.rebalance.protocols": Setting(
        "classic,consumer", ConfigType.STRING, "without consumer, a broker from before KIP-848"
    ),
    "group.initial.rebalance.delay.ms": Setting("0", ConfigType.INT, "wait for more members of a new group"),
    "group.max.session.timeout.ms": Setting(
        "1800000", ConfigType.INT, "the longest session a member may ask for"
    ),
    "group.max.size": Setting("2147483647", ConfigType.INT, "the most members of a group"),
    "group.min.session.timeout.ms": Setting(
        "10", ConfigType.INT, "the shortest session a member may ask for"
    ),
    "num.partitions": Setting("1", ConfigType.INT, "partitions of a topic made on its first use"),
    "offset.metadata.max.bytes": Setting("4096", ConfigType.INT, "the longest note with a committed offset"),
    "socket.request.max.bytes": Setting("104857600", ConfigType.INT, "the largest request"),
    "transaction.max.timeout.ms": Setting(
        "900000", ConfigType.INT, "the longest transaction timeout (KIP-98)"
    ),
    "transaction.version": Setting(
        "2", ConfigType.INT, "the level of the feature of this name: 2 (KIP-890), or 1, as before Kafka 4"
    ),
}

CHOICES: dict[str, frozenset[str]] = {
    "group.consumer.migration.policy": frozenset({"disabled", "upgrade", "downgrade", "bidirectional"}),
    "group.coordinator.rebalance.protocols": frozenset({"classic", "consumer"}),
    "transaction.version": frozenset({"1", "2"}),
}


def check_value(name: str, value: str, setting: Setting) -> str:
    """The value as it is kept. Raises RequestRefused (INVALID_CONFIG)."""
    text = value.strip()
    if setting.kind is ConfigType.BOOLEAN and text.lower() not in ("true", "false"):
        raise RequestRefused(Code.INVALID_CONFIG, f"{name}={value!r}: expected true or false")
    if setting.kind in (ConfigType.INT, ConfigType.LONG):
        try:
            int(text)
        except ValueError:
            raise RequestRefused(Code.INVALID_CONFIG, f"{name}={value!r}: expected a whole number") from None
    if name in CHOICES and not {each.strip() for each in text.split(",")} <= CHOICES[name]:
        raise RequestRefused(
            Code.INVALID_CONFIG, f"{name}={value!r}: expected of {', '.join(sorted(CHOICES[name]))}"
        )
    if name == "message.timestamp.type" and text not in ("CreateTime", "LogAppendTime"):
        raise RequestRefused(Code.INVALID_CONFIG, f"{name}={value!r}: expected CreateTime or LogAppendTime")
    return text


def check_topic_config(config: Mapping[str, Any]) -> dict[str, str]:
    """A topic's own settings as text. Raises RequestRefused (INVALID_CONFIG) for a name Kafka does not have here."""
    checked: dict[str, str] = {}
    for name, value in config.items():
        setting = TOPIC_SETTINGS.get(name)
        if setting is None:
            raise RequestRefused(
                Code.INVALID_CONFIG, f"unknown topic config {name}; known: {', '.join(TOPIC_SETTINGS)}"
            )
        if value is not None:
            text = str(value).lower() if isinstance(value, bool) else str(value)
            checked[name] = check_value(name, text, setting)
    return checked


class BrokerOptions:
    """The broker's settings, given by Kafka's names (dots or underscores); ValueError for an unknown one."""

    def __init__(self, given: Mapping[str, Any] | None = None) -> None:
        self.values = {name: setting.default for name, setting in BROKER_SETTINGS.items()}
        for name, value in (given or {}).items():
            dotted = name.replace("_", ".")
            if dotted not in BROKER_SETTINGS:
                raise ValueError(f"unknown broker option {name!r}; known: {', '.join(BROKER_SETTINGS)}")
            text = str(value).lower() if isinstance(value, bool) else str(value)
            try:
                self.values[dotted] = check_value(dotted, text, BROKER_SETTINGS[dotted])
            except RequestRefused as error:
                raise ValueError(error.message) from None

    def number(self, name: str) -> int:
        return int(self.values[name])

    def flag(self, name: str) -> bool:
        return self.values[name].lower() == "true"
