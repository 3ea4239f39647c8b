"""Measurements as bytes: OpenTelemetry's MetricsData in protobuf, as much of it as counters and gauges need.

Source: opentelemetry/proto/metrics/v1/metrics.proto, common/v1/common.proto, resource/v1/resource.proto (OTLP 1.x), and
https://protobuf.dev/programming-guides/encoding/. The numbers below are those files' field numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

_VARINT, _FIXED64, _BYTES = 0, 1, 2
_DELTA: Final = 1  # AggregationTemporality
_CUMULATIVE: Final = 2


class Point(NamedTuple):
    """One value. `start_ns` and `time_ns` are nanoseconds since 1970: what a sum counts from, and when the value was read."""

    value: float
    attributes: tuple[tuple[str, str], ...]
    start_ns: int
    time_ns: int


class Series(NamedTuple):
    """The values of one name, one for each set of attributes. `monotonic`: a sum that only grows, else a gauge."""

    name: str
    description: str
    unit: str
    monotonic: bool
    points: Sequence[Point]


def encode_metrics(
    series: Iterable[Series],
    *,
    resource: Mapping[str, str],
    scope_name: str,
    scope_version: str,
    delta: bool,
) -> bytes:
    """One MetricsData with one resource and one scope. `delta`: the sums are what was added since `start_ns`, else the whole."""
    scope = _message(1, _text(1, scope_name) + _text(2, scope_version))
    metrics = b"".join(_message(2, _metric(entry, delta)) for entry in series)
    described = _message(1, _attributes(1, tuple(resource.items())))
    return _message(1, described + _message(2, scope + metrics))


def _metric(series: Series, delta: bool) -> bytes:
    head = _text(1, series.name) + _text(2, series.description) + _text(3, series.unit)
    points = b"".join(_message(1, _point(point, series.monotonic)) for point in series.points)
    if not series.monotonic:
        return head + _message(5, points)
    return head + _message(7, points + _number(2, _DELTA if delta else _CUMULATIVE) + _number(3, 1))


def _point(point: Point, monotonic: bool) -> bytes:
    start = _fixed(2, "<Q", point.start_ns) if monotonic else b""
    value = _fixed(4, "<d", point.value)
    return start + _fixed(3, "<Q", point.time_ns) + value + _attributes(7, point.attributes)


@lru_cache(maxsize=4096)
def _attributes(field: int, attributes: tuple[tuple[str, str], ...]) -> bytes:
    return b"".join(
        _message(field, _text(1, key) + _message(2, _message(1, value.encode()))) for key, value in attributes
    )


# ---------------------------------------------------------------- protobuf


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _message(field: int, body: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(body)) + body


def _text(field: int, text: str) -> bytes:
    return _message(field, text.encode()) if text else b""


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value)


def _fixed(field: int, form: str, value: float) -> bytes:
    return _varint(field << 3 | _FIXED64) + struct.pack(form, value)
