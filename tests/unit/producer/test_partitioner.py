"""Where records without a key go."""

from __future__ import annotations

import random

import pytest

from penstock.producer.partitioner import StickyPartitioner, queue_weights


def test_stays_until_a_batch_is_full_then_moves_on() -> None:
    draws = iter([0.0, 0.5, 0.99])
    sticky = StickyPartitioner(100, lambda: next(draws))
    chosen = []
    for _ in range(6):
        chosen.append(sticky.choose(4, lambda: [1, 1, 1, 1]))
        sticky.added(50)
    assert chosen == [0, 0, 2, 2, 3, 3]


def test_a_partition_without_leader_is_avoided() -> None:
    sticky = StickyPartitioner(1, random.Random(1).random)
    chosen = set()
    for _ in range(50):
        chosen.add(sticky.choose(3, lambda: queue_weights([0, 0, 0], [True, False, True], True)))
        sticky.added(1)
    assert chosen == {0, 2}


def test_without_any_leader_some_partition_is_taken() -> None:
    sticky = StickyPartitioner(1, lambda: 0.9)
    assert sticky.choose(3, lambda: queue_weights([0, 0, 0], [False] * 3, True)) == 2


def test_a_topic_that_shrank_is_chosen_from_anew() -> None:
    draws = iter([0.99, 0.99])
    sticky = StickyPartitioner(1_000, lambda: next(draws))
    assert sticky.choose(6, lambda: [1.0] * 6) == 5
    assert sticky.choose(3, lambda: [1.0] * 3) == 2


@pytest.mark.parametrize(
    ("adaptive", "expected"), [(True, [3.0, 1.0, 0.0]), (False, [1.0, 1.0, 0.0])], ids=["adaptive", "uniform"]
)
def test_long_queues_weigh_less(adaptive: bool, expected: list[float]) -> None:
    assert queue_weights([0, 2, 1], [True, True, False], adaptive) == expected


def test_rounding_never_leaves_the_range() -> None:
    sticky = StickyPartitioner(1, lambda: 0.9999999999999999)
    assert sticky.choose(3, lambda: [0.1, 0.2, 0.0]) == 1
