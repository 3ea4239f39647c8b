"""A consumer whose measurements are pushed, and what OpenTelemetry's own classes read in a push."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, MetricsData

from penstock import KafkaConsumer, TopicPartition
from penstock.engine.telemetry import TelemetryPusher
from penstock.metrics import ConsumerMetrics


class Told(NamedTuple):
    """One value of a push. `kind` is gauge, delta or cumulative."""

    name: str
    attributes: dict[str, str]
    kind: str
    value: float
    unit: str
    start_ns: int
    time_ns: int


def read_push(payload: bytes) -> tuple[dict[str, str], list[Told]]:
    """(the resource's attributes, all values) of a MetricsData, as the official classes read it."""
    data = MetricsData.FromString(payload)
    (resource_metrics,) = data.resource_metrics
    (scope_metrics,) = resource_metrics.scope_metrics
    assert scope_metrics.scope.name == "penstock"
    told: list[Told] = []
    for metric in scope_metrics.metrics:
        kind = metric.WhichOneof("data")
        points = metric.gauge.data_points
        if kind == "sum":
            assert metric.sum.is_monotonic
            delta = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
            kind = "delta" if metric.sum.aggregation_temporality == delta else "cumulative"
            points = metric.sum.data_points
        told += [
            Told(
                metric.name,
                _pairs(point.attributes),
                kind,
                point.as_double,
                metric.unit,
                point.start_time_unix_nano,
                point.time_unix_nano,
            )
            for point in points
        ]
    return _pairs(resource_metrics.resource.attributes), told


def _pairs(attributes: Any) -> dict[str, str]:
    return {entry.key: entry.value.string_value for entry in attributes}


@contextmanager
def pushing(*topics: str, **config: Any) -> Iterator[tuple[KafkaConsumer, ConsumerMetrics, TelemetryPusher]]:
    """A consumer, its measurements and what pushes them; the last push is sent at the end."""
    options = {"auto_offset_reset": "earliest", "enable_auto_commit": False}
    with KafkaConsumer(*topics, **{**options, **config}) as consumer:
        pusher = consumer._core._pusher
        assert pusher is not None
        yield consumer, consumer._core.measurements, pusher


def lag_of(told: list[Told], tp: TopicPartition) -> float | None:
    """The lag of a partition that a push tells; None if it tells none."""
    where = {"topic": tp.topic, "partition": str(tp.partition)}
    name = "org.apache.kafka.consumer.fetch.manager.records.lag"
    values = [entry.value for entry in told if entry.name == name and entry.attributes == where]
    assert len(values) <= 1
    return values[0] if values else None
