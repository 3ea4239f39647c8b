"""Windows: what counts, for how long, and what rates are divided by."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.metrics import Sensor, Stat, Windows

WINDOWS = Windows(samples=2, window_ms=1_000)


def test_nothing_recorded() -> None:
    sensor = Sensor(WINDOWS)
    for stat in (Stat.AVG, Stat.MAX, Stat.MIN, Stat.LATEST):
        assert math.isnan(sensor.measure(stat, 0)), stat
    for stat in (Stat.RATE, Stat.COUNT_RATE, Stat.TOTAL, Stat.COUNT):
        assert sensor.measure(stat, 0) == 0, stat


def test_one_window() -> None:
    sensor = Sensor(WINDOWS)
    for value in (3, 1, 5):
        sensor.record(value, 10)
    assert sensor.measure(Stat.AVG, 10) == 3
    assert sensor.measure(Stat.MAX, 10) == 5
    assert sensor.measure(Stat.MIN, 10) == 1
    assert sensor.measure(Stat.LATEST, 10) == 5
    assert sensor.measure(Stat.TOTAL, 10) == 9
    assert sensor.measure(Stat.COUNT, 10) == 3


def test_what_is_older_than_the_windows_is_gone_but_from_the_totals() -> None:
    sensor = Sensor(WINDOWS)
    sensor.record(9, 0)
    sensor.record(1, 1_500)
    assert sensor.measure(Stat.MAX, 1_999) == 9
    assert sensor.measure(Stat.MAX, 2_000) == 1
    assert math.isnan(sensor.measure(Stat.MAX, 3_500))
    assert sensor.measure(Stat.TOTAL, 3_500) == 10
    assert sensor.measure(Stat.LATEST, 3_500) == 1


def test_a_rate_of_a_new_sensor_is_over_a_whole_window_at_least() -> None:
    sensor = Sensor(WINDOWS)
    sensor.record(10, 0)
    assert sensor.measure(Stat.RATE, 0) == pytest.approx(10), "not 10 in no time"
    assert sensor.measure(Stat.RATE, 500) == pytest.approx(10 / 1.5)
    assert sensor.measure(Stat.COUNT_RATE, 500) == pytest.approx(1 / 1.5)
    assert sensor.measure(Stat.COUNT_RATE, 500, 3_600_000) == pytest.approx(3_600 / 1.5)


def test_a_steady_stream_has_its_rate() -> None:
    sensor = Sensor(Windows(2, 30_000))
    for second in range(200):
        sensor.record(7, second * 1_000)
    assert sensor.measure(Stat.RATE, 200_000) == pytest.approx(7, rel=0.05)
    assert sensor.measure(Stat.COUNT_RATE, 200_000) == pytest.approx(1, rel=0.05)


def test_many_at_once() -> None:
    sensor = Sensor(WINDOWS)
    sensor.record_many(total=100, count=4, least=10, greatest=60, now_ms=0)
    assert sensor.measure(Stat.AVG, 0) == 25
    assert sensor.measure(Stat.MIN, 0) == 10
    assert sensor.measure(Stat.MAX, 0) == 60
    assert sensor.measure(Stat.COUNT, 0) == 4


def test_reading_changes_nothing() -> None:
    read, unread = Sensor(WINDOWS), Sensor(WINDOWS)
    for now in range(0, 10_000, 700):
        read.record(now, now)
        unread.record(now, now)
        read.measure(Stat.AVG, now + 5_000)
    assert read.measure(Stat.AVG, 10_000) == unread.measure(Stat.AVG, 10_000)


@given(st.lists(st.tuples(st.integers(0, 5_000), st.floats(-1e9, 1e9)), max_size=60), st.integers(1, 5))
def test_memory_is_bounded_and_values_are_within_what_was_recorded(
    events: list[tuple[int, float]], samples: int
) -> None:
    sensor, now = Sensor(Windows(samples, 1_000)), 0
    for step, value in events:
        now += step
        sensor.record(value, now)
        assert sensor.measure(Stat.MIN, now) <= value <= sensor.measure(Stat.MAX, now)
    assert len(sensor._kept) <= samples + 1
    assert sensor.measure(Stat.COUNT, now) == len(events)
