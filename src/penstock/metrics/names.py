"""What a measurement is called, and how it is computed from a sensor."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

Tags = tuple[tuple[str, str], ...]


class MetricName(NamedTuple):
    """The name of one measurement, as Java's client names it. Source: org.apache.kafka.common.MetricName.

    `tags` are pairs of a key and a value, in the order client-id, node-id, topic, partition as far as they apply.
    """

    name: str
    group: str
    description: str
    tags: Tags

    def tag(self, key: str) -> str | None:
        """The value of one tag; None where the measurement has no such tag."""
        return dict(self.tags).get(key)

    def __str__(self) -> str:
        tags = ",".join(f"{key}={value}" for key, value in self.tags)
        return f"{self.group}:{self.name}{{{tags}}}"


class Scope(Enum):
    """What a measurement is of; its value holds the tags that say so, beside client-id."""

    CLIENT = ()
    NODE = ("node-id",)
    TOPIC = ("topic",)
    PARTITION = ("topic", "partition")

    def tags(self, client_id: str, values: tuple[str, ...]) -> Tags:
        """The tags of one instance; `values` are those beside client-id, in their order."""
        return (("client-id", client_id), *zip(self.value, values, strict=True))


class Stat(Enum):
    """How a value is computed from what a sensor recorded."""

    AVG = "mean of the window"
    MAX = "greatest of the window"
    MIN = "least of the window"
    RATE = "sum of the window by time"
    COUNT_RATE = "events of the window by time"
    TOTAL = "sum since the start"
    COUNT = "events since the start"
    LATEST = "last value"
    GAUGE = "computed when it is read"


MONOTONIC: Final = frozenset({Stat.TOTAL, Stat.COUNT})
"""What only grows: OpenTelemetry's sums; all else is a gauge to it."""


class Unit(Enum):
    """The unit of a value, by its symbol in UCUM, as OpenTelemetry wants it."""

    MILLISECONDS = "ms"
    NANOSECONDS = "ns"
    SECONDS = "s"
    BYTES = "By"
    BYTES_PER_SECOND = "By/s"
    RECORDS = "{record}"
    RECORDS_PER_SECOND = "{record}/s"
    EVENTS = "1"
    EVENTS_PER_SECOND = "1/s"
    EVENTS_PER_HOUR = "1/h"
    RATIO = "ratio"
    NODE = "{node}"


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table. `sensor` names what it is computed from; `own`: penstock's, not Kafka's."""

    name: str
    group: str
    description: str
    unit: Unit
    stat: Stat
    sensor: str
    scope: Scope = Scope.CLIENT
    own: bool = False

    def named(self, client_id: str, *values: str) -> MetricName:
        """The name of one instance; `values` are those of the scope's tags, in their order."""
        return self.tagged(self.scope.tags(client_id, values))

    def tagged(self, tags: Tags) -> MetricName:
        """The name of one instance. All metrics of it may share the tags: of a thousand partitions they take a megabyte."""
        return MetricName(self.name, self.group, self.description, tags)
