"""What may be committed, against a naive model."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import OffsetAndMetadata, TopicPartition
from penstock.processing.progress import PartitionProgress

TP = TopicPartition("orders", 3)


def progress_at(offset: int, metadata: str = "") -> PartitionProgress:
    return PartitionProgress(TP, OffsetAndMetadata(offset, metadata))


class Model:
    """The same by sets: every offset of the log is done, added, or not seen."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.runs: list[tuple[int, int]] = []  # added and not done
        self.done: set[int] = set()
        self.end = first

    def commit_offset(self) -> int:
        return min((start for start, _ in self.runs), default=self.end)

    def beyond(self) -> set[int]:
        undone = {offset for start, end in self.runs for offset in range(start, end)}
        return {offset for offset in range(self.commit_offset(), self.end) if offset not in undone}


@settings(max_examples=300)
@given(st.data())
def test_it_agrees_with_the_model_whatever_the_order(data: st.DataObject) -> None:
    first = data.draw(st.integers(0, 50))
    progress, model = progress_at(first), Model(first)
    for _ in range(data.draw(st.integers(1, 40))):
        if model.runs and data.draw(st.booleans()):
            run = data.draw(st.sampled_from(model.runs))
            model.runs.remove(run)
            progress.done(run[0])
        else:
            start = model.end + data.draw(st.integers(0, 2))
            end = start + data.draw(st.sampled_from([1, 1, 1, 4]))
            progress.added(start, end)
            model.runs.append((start, end))
            model.end = end
        assert progress.commit_offset == model.commit_offset()
        assert progress.unfinished == len(model.runs)
        beyond = {offset for start, end in progress.done_beyond() for offset in range(start, end)}
        assert beyond == {offset for offset in model.beyond() if offset > model.commit_offset()}
        entry = progress.to_commit()
        if entry is not None:
            again = PartitionProgress(TP, entry)
            assert {o for o in range(entry.offset, model.end + 3) if again.was_done(o)} == beyond
            progress.committed_as(entry)


@settings(max_examples=200)
@given(st.data())
def test_no_record_is_forgotten_or_repeated_over_restarts(data: st.DataObject) -> None:
    """Each life handles what it is given, in any order, commits at any time, and dies. What was done by a commit is not given again."""
    total = 60
    log = sorted(data.draw(st.sets(st.integers(0, total), min_size=1)))  # compaction has left gaps
    committed = OffsetAndMetadata(0)
    stored_done: set[int] = set()
    for _ in range(data.draw(st.integers(1, 5))):
        progress = PartitionProgress(TP, committed)
        out = []
        done = set(stored_done)
        for offset in [offset for offset in log if offset >= committed.offset]:
            if progress.was_done(offset):
                assert offset in stored_done, "a record is left out that was never done"
                continue
            assert offset not in stored_done, "done before the last commit, and handled again"
            progress.added(offset, offset + 1)
            out.append(offset)
            while out and data.draw(st.booleans()):
                finished_one = data.draw(st.sampled_from(out))
                out.remove(finished_one)
                progress.done(finished_one)
                done.add(finished_one)
            if data.draw(st.integers(0, 9)) == 0 and (entry := progress.to_commit()) is not None:
                assert entry.offset >= committed.offset, "the commit went back"
                assert all(o in done for o in log if o < entry.offset), "the commit passed unfinished work"
                committed = entry
                progress.committed_as(entry)
                stored_done = set(done)
            if data.draw(st.integers(0, 30)) == 0:
                break
        else:
            progress.read_to(total + 1)


def test_nothing_is_committed_twice() -> None:
    progress = progress_at(5)
    assert progress.to_commit() is None
    progress.added(5, 6)
    progress.added(6, 7)
    assert progress.to_commit() is None
    progress.done(6)
    entry = progress.to_commit()
    assert entry is not None and entry.offset == 5 and entry.metadata
    assert progress.to_commit() is None
    progress.not_committed()
    assert progress.to_commit() == entry
    progress.committed_as(entry)
    progress.done(5)
    assert progress.to_commit() == OffsetAndMetadata(7)


def test_twice_done_and_never_added_are_errors_of_the_program() -> None:
    progress = progress_at(0)
    for offset in range(4):
        progress.added(offset, offset + 1)
    progress.done(0)
    progress.done(2)
    for offset in (0, 2):
        with pytest.raises(ValueError, match="done twice"):
            progress.done(offset)


def test_without_a_committed_offset_nothing_is_said_before_the_first_record() -> None:
    progress = PartitionProgress(TP, None)
    assert progress.commit_offset == -1 and progress.to_commit() is None
    progress.added(40, 41)
    assert progress.to_commit() == OffsetAndMetadata(40)
    progress.done(40)
    assert progress.to_commit() == OffsetAndMetadata(41)


def test_the_leader_epoch_is_that_of_the_record_before() -> None:
    progress = PartitionProgress(TP, OffsetAndMetadata(10, "", 3))
    for offset, epoch in ((10, 3), (11, 4), (12, 4), (13, 6)):
        progress.has_epoch(offset, epoch)
        progress.added(offset, offset + 1)
    seen = {}
    for offset in range(10, 14):
        progress.done(offset)
        entry = progress.to_commit()
        assert entry is not None
        seen[entry.offset] = entry.leader_epoch
    assert seen == {11: 3, 12: 4, 13: 4, 14: 6}
