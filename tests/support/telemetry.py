"""A consumer whose measurements are pushed, and what OpenTelemetry's own classes read in a push."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, MetricsData

from penstock import KafkaConsumer, TopicPartition
from penstock.engine.telemetry import Meter, TelemetryPusher, metrics_of

CLOSE_S = 10.0


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


class Pushing:
    """Measurements and their pusher, in the engine of a consumer that was made with enable.metrics.push=False."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        core = consumer._core
        self._core = core
        self.metrics = metrics_of(core.config)
        self.meter = Meter(core.engine, self.metrics, core.fetcher, core.handles)
        self.pusher = TelemetryPusher(core.client, core.config, self.meter.snapshot)
        core.engine.ask(self._start)

    async def _start(self) -> None:
        self.pusher.start()

    def instance_id(self, timeout_s: float = 30.0) -> Any:
        return self._core.engine.call(self.pusher.client_instance_id).result(timeout_s)

    def close(self) -> None:
        self._core.engine.call(self.pusher.close, CLOSE_S * 1000).result(CLOSE_S + 5)


@contextmanager
def pushing(*topics: str, **config: Any) -> Iterator[tuple[KafkaConsumer, Pushing]]:
    """A consumer and the pusher of its measurements; the last push is sent at the end."""
    options = {"auto_offset_reset": "earliest", "enable_auto_commit": False, "enable_metrics_push": False}
    with KafkaConsumer(*topics, **{**options, **config}) as consumer:
        pusher = Pushing(consumer)
        try:
            yield consumer, pusher
        finally:
            pusher.close()


def lag_of(told: list[Told], tp: TopicPartition) -> float | None:
    """The lag of a partition that a push tells; None if it tells none."""
    where = {"topic": tp.topic, "partition": str(tp.partition)}
    name = "org.apache.kafka.consumer.fetch.manager.records.lag"
    values = [entry.value for entry in told if entry.name == name and entry.attributes == where]
    assert len(values) <= 1
    return values[0] if values else None
