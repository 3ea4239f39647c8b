"""A naive model of a de-duplication store, steps that compare one with it, and what several processes do to one at once."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from penstock.processing.deduplication import Answer, DeduplicationStore

IDS = [bytes([number]) * 16 for number in range(4)]
OWNERS = ["a", "b", "c"]
Step = tuple[str, list[bytes], str, int]
"""What, of which ids, by whom, ms."""


class Clock:
    def __init__(self) -> None:
        self.now_ms = 1_000_000.0

    def __call__(self) -> float:
        return self.now_ms


class Model:
    """Of each id: (owner, done, until)."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.rows: dict[bytes, tuple[str, bool, float]] = {}

    def live(self, each: bytes) -> tuple[str, bool, float] | None:
        row = self.rows.get(each)
        return None if row is None or row[2] <= self.clock() else row

    def claim(self, each: bytes, owner: str, lease_ms: int) -> Answer:
        row = self.live(each)
        if row is not None and row[1]:
            return "done"
        if row is not None and row[0] != owner:
            return "busy"
        self.rows[each] = (owner, False, self.clock() + lease_ms)
        return "new"

    def confirm(self, each: bytes, owner: str, expires_ms: int) -> bool:
        row = self.live(each)
        if row is not None and row[0] != owner:
            return False
        self.rows[each] = (owner, True, self.clock() + expires_ms)
        return True

    def release(self, each: bytes, owner: str) -> None:
        row = self.rows.get(each)
        if row is not None and row[0] == owner and not row[1]:
            del self.rows[each]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["claim", "confirm", "release", "wait"]),
        st.lists(st.sampled_from(IDS), unique=True, max_size=4),
        st.sampled_from(OWNERS),
        st.integers(1, 50),
    ),
    max_size=40,
)


def follows_the_model(store: DeduplicationStore, clock: Clock, steps: list[Step]) -> None:
    model = Model(clock)
    for what, ids, owner, ms in steps:
        match what:
            case "claim":
                assert store.claim(ids, owner, ms) == [model.claim(each, owner, ms) for each in ids]
            case "confirm":
                lost = [each for each in ids if not model.confirm(each, owner, ms)]
                assert sorted(store.confirm(ids, owner, ms)) == sorted(lost)
            case "release":
                store.release(ids, owner)
                for each in ids:
                    model.release(each, owner)
            case "wait":
                clock.now_ms += ms


def many(count: int, of: int = 0) -> list[bytes]:
    return [of.to_bytes(8) + number.to_bytes(8) for number in range(count)]


def won(store: DeduplicationStore, owner: str, ids: Sequence[bytes]) -> list[bytes]:
    """Claims all, some at a time, in an order of its own; those that it got."""
    chance = random.Random(owner)
    mixed = chance.sample(list(ids), len(ids))
    got = []
    while mixed:
        part, mixed = mixed[:20], mixed[20:]
        got += [
            each
            for each, answer in zip(part, store.claim(part, owner, 600_000), strict=True)
            if answer == "new"
        ]
        time.sleep(0.001)  # who waits for a file's lock sleeps longer and longer, and would come to nothing
    store.close()
    return got


_meeting: Any = None  # a multiprocessing.Barrier, in a worker process


def meet(barrier: Any) -> None:
    """In a worker process, at its start."""
    global _meeting
    _meeting = barrier


def won_at_once(store: DeduplicationStore, owner: str, ids: Sequence[bytes]) -> list[bytes]:
    """won(), when all processes have come so far."""
    store.open()
    _meeting.wait(30)
    return won(store, owner, ids)
