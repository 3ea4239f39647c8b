"""Exponential backoff with jitter (KIP-144, KIP-580): the machines' own, with the engine's chance."""

from __future__ import annotations

import random

from ..group import backoff


class Backoff(backoff.Backoff):
    """Delays from `initial_ms` to `max_ms`, both as a user may have configured them."""

    def __init__(self, initial_ms: int, max_ms: int) -> None:
        first_ms = max(1, initial_ms)
        super().__init__(first_ms, max(first_ms, max_ms), random.random)
