"""Test 38: what stands still is told of, once."""

from __future__ import annotations

from penstock import TopicPartition
from penstock.processing.lanes import Ownership
from penstock.processing.stalls import Stalls


def owned_with(offsets: range) -> Ownership:
    owned = Ownership(TopicPartition("orders", 0), None)
    for offset in offsets:
        owned.added(offset, offset + 1)
        owned.held += 1
    return owned


def done(owned: Ownership, offset: int) -> None:
    owned.done(offset)
    owned.held -= 1


def test_38_a_partition_that_does_not_move_is_told_once_until_it_moves() -> None:
    stalls, stuck, moving = Stalls(1_000), owned_with(range(3)), owned_with(range(100))
    for second in range(5):
        done(moving, second)
        if second == 1:
            done(stuck, 1)  # not the first: the commit does not move
        assert stalls.look([stuck, moving], second * 1_000.0) == ([stuck] if second == 1 else [])
    assert stalls.told() == ["orders-0"]
    done(stuck, 0)
    done(moving, 5)
    assert stalls.look([stuck, moving], 5_000.0) == []
    assert stalls.told() == []
    assert stalls.look([stuck], 6_000.0) == [stuck], "it stands still again"


def test_38_nothing_held_is_no_stall_and_what_goes_is_forgotten() -> None:
    stalls, idle, stuck = Stalls(1_000), owned_with(range(0)), owned_with(range(1))
    assert stalls.look([idle, stuck], 0.0) == []
    assert stalls.look([idle, stuck], 10_000.0) == [stuck]
    assert stalls.look([idle], 20_000.0) == []
    assert stalls.told() == []
