"""auto.offset.reset: where to start when nothing says where."""

from __future__ import annotations

import re
from typing import Final

LATEST: Final = -1
EARLIEST: Final = -2

_DURATION = re.compile(
    r"P(?:(?P<days>\d+)D)?(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?",
    re.IGNORECASE,
)


def reset_timestamp(policy: str, now_ms: int) -> int | None:
    """The timestamp to ask ListOffsets for: -2 (earliest), -1 (latest), or ms since 1970; None for the policy none.

    `by_duration:P1DT12H` means the first record not older than that (KIP-1106); `now_ms` is the wall clock.
    """
    if policy == "earliest":
        return EARLIEST
    if policy == "latest":
        return LATEST
    if policy == "none":
        return None
    kind, _, duration = policy.partition(":")
    match = _DURATION.fullmatch(duration)
    if kind != "by_duration" or match is None or not any(match.groups()):
        raise ValueError(
            f"auto.offset.reset is earliest, latest, none or by_duration:<ISO 8601, as PT1H30M>; got {policy!r}"
        )
    parts = {name: float(value or 0) for name, value in match.groupdict().items()}
    seconds = ((parts["days"] * 24 + parts["hours"]) * 60 + parts["minutes"]) * 60 + parts["seconds"]
    return max(0, now_ms - int(seconds * 1000))
