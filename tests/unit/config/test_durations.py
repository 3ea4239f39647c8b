"""ISO-8601 durations and the reset policy that is made of them (KIP-1106)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import duration_ms, reset_duration_ms


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("PT0S", 0),
        ("PT1H", 3_600_000),
        ("P1D", 86_400_000),
        ("P1DT12H30M15.5S", 131_415_500),
        ("pt15m", 900_000),
        ("PT0.0005S", 0),
        ("PT1.S", 1_000),
        ("-PT6H", -21_600_000),
        ("PT-6H3M", -21_420_000),
        ("-PT-6H", 21_600_000),
    ],
)
def test_durations_as_java_reads_them(text: str, ms: int) -> None:
    assert duration_ms(text) == ms


@pytest.mark.parametrize(
    "text", ["", "P", "PT", "P1DT", "1H", "P1H", "PT1D", "P1M", "P1Y", "PT1,5H", "PT1HX", "P1W", "PT\u0661H"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="no ISO-8601 duration"):
        duration_ms(text)


@given(st.integers(0, 999), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99_999_999))
def test_parts_add_up(days: int, hours: int, minutes: int, ms: int) -> None:
    text = f"P{days}DT{hours}H{minutes}M{ms // 1000}.{ms % 1000:03d}S"
    assert duration_ms(text) == ((days * 24 + hours) * 60 + minutes) * 60_000 + ms


def test_the_reset_policy() -> None:
    assert reset_duration_ms("by_duration:PT1H") == 3_600_000
    assert reset_duration_ms("BY_DURATION:PT1H") == 3_600_000
    assert reset_duration_ms("earliest") is None
    with pytest.raises(ValueError, match="cannot be negative"):
        reset_duration_ms("by_duration:-PT1H")
    with pytest.raises(ValueError, match="no ISO-8601 duration"):
        reset_duration_ms("by_duration:1h")
