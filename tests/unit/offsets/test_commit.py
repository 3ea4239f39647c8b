"""Within an ownership a committed offset never moves back by itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import CommitRewindError
from penstock.offsets import CommitLedger
from penstock.types import OffsetAndMetadata, TopicPartition

T0, T1 = TopicPartition("t", 0), TopicPartition("t", 1)


def at(**offsets: int) -> dict[TopicPartition, OffsetAndMetadata]:
    return {{"t0": T0, "t1": T1}[name]: OffsetAndMetadata(offset, "note") for name, offset in offsets.items()}


def test_forward_and_equal_commits_are_sent_as_they_are() -> None:
    ledger = CommitLedger()
    ledger.acknowledged(at(t0=5))
    for offset in (5, 6):
        assert ledger.check(at(t0=offset, t1=0), allow_rewind=False) == at(t0=offset, t1=0)


def test_a_commit_that_goes_back_names_partition_and_offsets() -> None:
    ledger = CommitLedger()
    ledger.acknowledged(at(t0=5, t1=9))
    with pytest.raises(CommitRewindError) as caught:
        ledger.check(at(t0=4, t1=10), allow_rewind=False)
    assert "t-0: 5 is committed, 4 was asked" in str(caught.value)
    assert "allow_rewind=True" in str(caught.value)
    assert "t-1" not in str(caught.value)
    assert caught.value.partitions == (T0,)


def test_going_back_on_purpose_is_the_new_mark() -> None:
    ledger = CommitLedger()
    ledger.acknowledged(at(t0=5))
    ledger.acknowledged(ledger.check(at(t0=2), allow_rewind=True))
    assert ledger.check(at(t0=3), allow_rewind=False) == at(t0=3)


def test_what_was_not_acknowledged_does_not_count() -> None:
    ledger = CommitLedger()
    ledger.check(at(t0=9), allow_rewind=False)
    assert ledger.check(at(t0=1), allow_rewind=False) == at(t0=1)


def test_a_revoked_partition_is_forgotten() -> None:
    ledger = CommitLedger()
    ledger.acknowledged(at(t0=5, t1=5))
    ledger.forget([T0])
    assert ledger.check(at(t0=1), allow_rewind=False) == at(t0=1)
    with pytest.raises(CommitRewindError):
        ledger.check(at(t1=1), allow_rewind=False)


def test_a_commit_of_its_own_waits_where_it_would_go_back() -> None:
    ledger = CommitLedger()
    ledger.acknowledged(at(t0=5, t1=5))
    assert ledger.not_behind(at(t0=4, t1=5)) == at(t1=5)


@given(st.lists(st.tuples(st.sampled_from([T0, T1]), st.integers(0, 9))))
def test_what_is_sent_without_asking_never_goes_back(asked: list[tuple[TopicPartition, int]]) -> None:
    ledger, high = CommitLedger(), {T0: 0, T1: 0}
    for tp, offset in asked:
        wanted = {tp: OffsetAndMetadata(offset)}
        sent = ledger.not_behind(wanted)
        assert bool(sent) == (offset >= high[tp])
        ledger.acknowledged(ledger.check(sent, allow_rewind=False))
        high[tp] = max(high[tp], offset)
