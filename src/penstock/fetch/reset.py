"""auto.offset.reset: where to start when nothing says where."""

from __future__ import annotations

from typing import Final

from ..config import reset_duration_ms

LATEST: Final = -1
EARLIEST: Final = -2


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
    back_ms = reset_duration_ms(policy)
    if back_ms is None:
        raise ValueError(
            f"auto.offset.reset is earliest, latest, none or by_duration:<ISO 8601, as PT1H30M>; got {policy!r}"
        )
    return max(0, now_ms - back_ms)
