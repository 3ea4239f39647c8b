"""ISO-8601 durations, as java.time.Duration reads them: P2D, PT1H30M, PT0.5S, -PT6H."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

_DURATION: Final = re.compile(
    r"(?P<sign>[+-]?)P(?:(?P<D>[+-]?\d+)D)?"
    r"(?P<time>T(?:(?P<H>[+-]?\d+)H)?(?:(?P<M>[+-]?\d+)M)?(?:(?P<S>[+-]?\d+(?:[.,]\d{0,9})?)S)?)?",
    re.IGNORECASE | re.ASCII,
)
_UNIT_MS: Final = {"D": 86_400_000, "H": 3_600_000, "M": 60_000, "S": 1_000}

BY_DURATION: Final = "by_duration:"


def duration_ms(text: str) -> int:
    """The milliseconds (rounded down) of an ISO-8601 duration. ValueError where it is none."""
    match = _DURATION.fullmatch(text.strip())
    parts = {} if match is None else {unit: match[unit] for unit in _UNIT_MS if match[unit] is not None}
    if match is None or not parts or (match["time"] or "").upper() == "T":
        raise ValueError(f"{text!r} is no ISO-8601 duration, such as P7D, PT6H or P1DT12H30M")
    total = sum(Fraction(value.replace(",", ".")) * _UNIT_MS[unit] for unit, value in parts.items())
    return int(-total // 1) if match["sign"] == "-" else int(total // 1)


def reset_duration_ms(strategy: str) -> int | None:
    """The milliseconds of an `auto.offset.reset` of the form by_duration:..., None for another form. Source: KIP-1106.

    ValueError where the duration makes no sense or is negative, as Java's client has it.
    """
    if not strategy.lower().startswith(BY_DURATION):
        return None
    ms = duration_ms(strategy[len(BY_DURATION) :])
    if ms < 0:
        raise ValueError(f"{strategy!r}: the duration goes back from now and cannot be negative")
    return ms
