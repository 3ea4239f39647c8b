"""Whether a position survives another leader's log: judged against logs that are made up, cut and continued."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.fetch import EpochEnd, Judgement, Verdict, judge, needs_validation

UNDEFINED = EpochEnd(-1, -1)


@pytest.mark.parametrize(
    ("position_epoch", "leader_epoch", "needed"),
    [(3, 4, True), (3, 3, False), (4, 3, True), (-1, 4, False), (3, -1, False), (-1, -1, False)],
)
def test_who_is_asked(position_epoch: int, leader_epoch: int, needed: bool) -> None:
    assert needs_validation(position_epoch, leader_epoch) is needed


@pytest.mark.parametrize(
    ("end", "judgement"),
    [
        (EpochEnd(5, 120), Judgement(Verdict.VALID, 100, 5)),
        (EpochEnd(5, 100), Judgement(Verdict.VALID, 100, 5)),
        (EpochEnd(5, 99), Judgement(Verdict.TRUNCATED, 99, 5)),
        (EpochEnd(4, 60), Judgement(Verdict.TRUNCATED, 60, 4)),
        (EpochEnd(4, 100), Judgement(Verdict.VALID, 100, 4)),  # the epoch had no records, as after "latest"
        (EpochEnd(0, 0), Judgement(Verdict.TRUNCATED, 0, 0)),
        (UNDEFINED, Judgement(Verdict.VALID, 100, 5)),  # a log without epochs
    ],
)
def test_the_answers_of_a_later_leader(end: EpochEnd, judgement: Judgement) -> None:
    assert judge(100, 5, end, leader_epoch=7) == judgement


def test_an_epoch_above_the_leaders_is_of_another_log() -> None:
    """The topic was made again under its name, and counts its leaders from zero."""
    assert judge(100, 5, UNDEFINED, leader_epoch=0) == Judgement(Verdict.OTHER_HISTORY)


def end_of(log: list[int], epoch: int) -> EpochEnd:
    """What a leader answers that has these epochs, one per offset. Source: Kafka's LeaderEpochFileCache.endOffsetFor."""
    not_above = [(e, offset) for offset, e in enumerate(log) if e <= epoch]
    if not not_above:
        return EpochEnd(epoch, 0)
    largest, last = not_above[-1]
    return EpochEnd(largest, last + 1)


@given(
    old=st.lists(st.integers(0, 3), max_size=12).map(sorted),
    kept=st.integers(0, 12),
    new=st.lists(st.integers(4, 6), max_size=12).map(sorted),
    read=st.integers(1, 12),
)
def test_no_record_that_survives_is_read_twice_and_none_that_is_new_is_skipped(
    old: list[int], kept: int, new: list[int], read: int
) -> None:
    """A reader stands behind `read` records of the old log; the new leader has the first `kept` of it and goes on with `new`."""
    kept, read = min(kept, len(old)), min(read, len(old))
    log = old[:kept] + new
    if read == 0:
        return
    assert all(a <= b for a, b in pairwise(log))
    epoch = old[read - 1]
    judged = judge(read, epoch, end_of(log, epoch), leader_epoch=7)
    assert judged.offset == min(read, kept)
    assert (judged.verdict is Verdict.TRUNCATED) == (read > kept)
