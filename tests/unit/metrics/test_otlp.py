"""The encoder's bytes, read by OpenTelemetry's own classes."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, MetricsData

from penstock.metrics.otlp import Point, Series, encode_metrics

NS = st.integers(0, 2**63)
TEXT = st.text(max_size=300)
TAGS = st.dictionaries(TEXT, TEXT, max_size=4).map(lambda tags: tuple(tags.items()))
POINTS = st.builds(Point, st.floats(), TAGS, start_ns=NS, time_ns=NS)
SERIES = st.builds(Series, TEXT, TEXT, TEXT, st.booleans(), st.lists(POINTS, max_size=4))


def attributes(pairs: Any) -> dict[str, str]:
    return {pair.key: pair.value.string_value for pair in pairs}


@given(st.lists(SERIES, max_size=5), st.dictionaries(TEXT, TEXT, max_size=3), st.booleans())
def test_what_is_written_is_read(series: list[Series], resource: dict[str, str], delta: bool) -> None:
    payload = encode_metrics(
        series, resource=resource, scope_name="penstock", scope_version="1.2", delta=delta
    )
    data = MetricsData.FromString(payload)
    (of_resource,) = data.resource_metrics
    assert attributes(of_resource.resource.attributes) == resource
    (of_scope,) = of_resource.scope_metrics
    assert (of_scope.scope.name, of_scope.scope.version) == ("penstock", "1.2")
    assert len(of_scope.metrics) == len(series)
    for read, written in zip(of_scope.metrics, series, strict=True):
        assert (read.name, read.description, read.unit) == (written.name, written.description, written.unit)
        assert read.WhichOneof("data") == ("sum" if written.monotonic else "gauge")
        points = read.sum.data_points if written.monotonic else read.gauge.data_points
        if written.monotonic:
            assert read.sum.is_monotonic
            name = AggregationTemporality.Name(read.sum.aggregation_temporality)
            assert name == f"AGGREGATION_TEMPORALITY_{'DELTA' if delta else 'CUMULATIVE'}"
        assert len(points) == len(written.points)
        for got, point in zip(points, written.points, strict=True):
            assert got.as_double == point.value or math.isnan(point.value)
            assert got.WhichOneof("value") == "as_double"
            assert got.time_unix_nano == point.time_ns
            assert got.start_time_unix_nano == (point.start_ns if written.monotonic else 0)
            assert attributes(got.attributes) == dict(point.attributes)
    assert MetricsData.FromString(data.SerializeToString()) == data or any(
        math.isnan(point.value) for each in series for point in each.points
    )
