"""Durations and sizes as people write them."""

from __future__ import annotations

import re

from ..errors import ConfigError

_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_UNIT_BYTES = {
    "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
}  # fmt: skip
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?b)", re.IGNORECASE)


def to_duration_ms(duration: float | str) -> float:
    """Milliseconds of a number of them, or of text with a unit: '200ms', '10s', '1.5m', '2h', '1d'. ConfigError otherwise."""
    if isinstance(duration, str):
        match = _DURATION.fullmatch(duration.strip())
        if match is None:
            raise ConfigError(
                f"{duration!r} is no duration; write a number of milliseconds, or '200ms', '10s', '5m', '2h', '1d'"
            )
        return float(match[1]) * _UNIT_MS[match[2]]
    if isinstance(duration, bool) or not duration >= 0:
        raise ConfigError(f"a duration is milliseconds from 0 on, or text as '10s'; got {duration!r}")
    return float(duration)


def to_size_bytes(size: int | str) -> int:
    """Bytes of a number of them, or of text with a unit: '64MiB', '2GB', '1.5GiB'. ConfigError otherwise."""
    if isinstance(size, str):
        match = _SIZE.fullmatch(size.strip())
        if match is None or match[2].lower() not in _UNIT_BYTES:
            raise ConfigError(f"{size!r} is no size; write a number of bytes, or '64MiB', '2GB', '1.5GiB'")
        return int(float(match[1]) * _UNIT_BYTES[match[2].lower()])
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise ConfigError(f"a size is a number of bytes from 0 on, or text as '64MiB'; got {size!r}")
    return size
