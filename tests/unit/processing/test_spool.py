"""A spool's files, and what is decided about them: whatever has happened to the bytes, what is read is what was written, or nothing."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock import ConsumerRecords, OffsetAndMetadata, TopicPartition
from penstock._native import BatchBuilder, decode_batches
from penstock.errors import ConfigError
from penstock.processing import finished
from penstock.processing.failure import FailurePolicy
from penstock.processing.lanes import Load, RecordLane
from penstock.processing.progress import PartitionProgress
from penstock.processing.spool import Spool, journal
from penstock.processing.spool.disk import JOURNAL_NAME, DamagedError, Disk
from penstock.processing.spool.format import SEGMENT, Identity, decode_entries
from penstock.processing.spool.journal import JournalState, Resting
from penstock.processing.spool.ownership import JournaledOwnership, Notes
from penstock.processing.spool.shelf import Segment, Shelf, adjoining
from penstock.processing.spool.store import Store

OURS = Identity("group", "topic", 0, b"\1" * 16)
HEADER = OURS.header(SEGMENT)
MORE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)


def written(disk: Disk, folder: Path, lengths: list[int]) -> tuple[Path, list[bytes]]:
    """A segment of frames with so many records each; the payload tells the place."""
    path, payloads, at = folder / Segment(100, 100, 0, 0).name, [], 100
    for number, length in enumerate(lengths):
        payload = b"payload %d " % number * length
        disk.append_frame(path, b"" if number else HEADER, payload, at, at + length, length, 7)
        payloads.append(payload)
        at += length
    return path, payloads


def read_back(disk: Disk, folder: Path) -> tuple[list[bytes], bool]:
    """Payloads of all that is found, and whether that went well to the end."""
    segments, _ = disk.found(folder, OURS)
    found: list[bytes] = []
    for segment in segments:
        position, at = len(HEADER), segment.start
        while at < segment.end:
            try:
                frames, position = disk.read(folder / segment.name, position, at, 50, 10)
            except DamagedError:
                return found, False
            found += [frame.payload for frame in frames]
            at = frames[-1].head.next_offset
    return found, True


# ---------------------------------------------------------------- damage


@MORE
@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=6), data=st.data())
def test_a_segment_that_is_cut_or_changed_gives_a_prefix(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], data: st.DataObject
) -> None:
    folder, disk = tmp_path_factory.mktemp("spool"), Disk()
    path, payloads = written(disk, folder, lengths)
    disk.close()
    whole = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        whole = whole[: data.draw(st.integers(0, len(whole)))]
    else:
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole)
    found, _ = read_back(disk, folder)
    assert found == payloads[: len(found)]
    again, _ = read_back(disk, folder)
    assert again == found, "what was cut off comes back"


@MORE
@given(tail=st.binary(max_size=200))
def test_what_was_torn_is_cut_off_before_more_is_written(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes
) -> None:
    folder, disk = tmp_path_factory.mktemp("spool"), Disk()
    path, payloads = written(disk, folder, [2, 3])
    disk.append([(path, tail)])
    (segment,), _ = disk.found(folder, OURS)
    assert (segment.start, segment.end, segment.records, segment.leader_epoch) == (100, 105, 5, 7)
    assert segment.size_bytes == path.stat().st_size
    disk.append_frame(path, b"", b"more", 105, 106, 1, 7)
    assert read_back(disk, folder) == ([*payloads, b"more"], True)


def test_files_of_anything_else_are_not_read(tmp_path: Path) -> None:
    disk = Disk()
    for other in (
        Identity("other", "topic", 0, OURS.topic_id),
        Identity("group", "topic", 1, OURS.topic_id),
        Identity("group", "topic", 0, b"\2" * 16),
        Identity("group", "topic", 0, OURS.topic_id, "read_committed"),
    ):
        path, _ = written(disk, tmp_path, [1])
        disk.write_journal(tmp_path, OURS, JournalState(committed=5))
        assert disk.found(tmp_path, other) == ([], JournalState())
        assert not path.exists()


def test_what_is_read_at_once_is_bounded_and_at_least_a_frame(tmp_path: Path) -> None:
    disk = Disk()
    path, payloads = written(disk, tmp_path, [3, 3, 3, 3])
    for most_bytes, most_records, expected in (
        (10**6, 10**6, 4),
        (0, 10**6, 1),
        (10**6, 0, 1),
        (10**6, 7, 2),
    ):
        frames, _ = disk.read(path, len(HEADER), 100, most_bytes, most_records)
        assert [frame.payload for frame in frames] == payloads[:expected]
    frames, _ = disk.read(path, len(HEADER), 104, 10**6, 10**6)
    assert frames[0].head.start == 103, "the frame that the offset lies in is the first"


def test_frames_that_do_not_adjoin_are_not_read(tmp_path: Path) -> None:
    disk = Disk()
    path, payloads = written(disk, tmp_path, [2, 3])
    disk.append_frame(path, b"", b"after a gap", 106, 107, 1, 7)
    assert read_back(disk, tmp_path) == (payloads, True)


entries = st.lists(
    st.one_of(
        st.builds(journal.attempted, st.integers(0, 60)),
        st.builds(journal.committed, st.integers(0, 60)),
        st.builds(journal.progress, st.just(0), st.integers(0, 60), st.lists(st.integers(0, 60), max_size=5)),
        st.builds(lambda at, more: journal.runs([(at, at + more)]), st.integers(0, 60), st.integers(1, 5)),
        st.builds(
            journal.retry, st.integers(0, 60), st.builds(Resting, st.integers(1, 9), st.integers(0, 2**40))
        ),
    ),
    max_size=12,
)


@MORE
@given(written=entries, data=st.data())
def test_a_journal_that_is_cut_or_changed_tells_what_was_written_first(
    written: list[bytes], data: st.DataObject
) -> None:
    whole = bytearray(b"".join(written))
    sound = [decode_entries(entry, 0)[0][0] for entry in written]
    if whole and data.draw(st.booleans()):
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        whole = whole[: data.draw(st.integers(0, len(whole)))]
    found, end = decode_entries(bytes(whole), 0)
    assert found == sound[: len(found)] and end <= len(whole)


# ---------------------------------------------------------------- what a journal comes to


def state_of(*parts: bytes) -> JournalState:
    return JournalState.of(decode_entries(b"".join(parts), 0)[0])


def ascending(*parts: list[bytes]) -> list[list[bytes]]:
    """The same, with commits that never move back, as those of one ownership."""
    at, found = 0, []
    for part in parts:
        found.append([])
        for entry in part:
            kind, body = decode_entries(entry, 0)[0][0]
            if kind in (journal.ATTEMPTED, journal.COMMITTED):
                at = max(at, int.from_bytes(body, "little"))
                found[-1].append((journal.attempted if kind == journal.ATTEMPTED else journal.committed)(at))
            else:
                found[-1].append(entry)
    return found


@MORE
@given(before=entries, after=entries, committed=st.one_of(st.none(), st.integers(0, 60)))
def test_a_journal_that_is_rewritten_tells_the_same(
    before: list[bytes], after: list[bytes], committed: int | None
) -> None:
    before, after = ascending(before, after)
    plain = state_of(*before, *after).resumed(committed)
    compact = state_of(state_of(*before).compacted().entries(), *after).resumed(committed)
    assert compact.runs == plain.runs and compact.retries == plain.retries
    again = state_of(plain.entries()).resumed(committed)
    assert again == plain


def test_what_counts_is_up_to_the_offset_that_the_group_has() -> None:
    parts = [
        journal.committed(10),
        journal.progress(10, 14, [16, 17, 30]),
        journal.retry(15, Resting(2, 1000)),
        journal.retry(16, Resting(1, 1000)),
        journal.attempted(14),
    ]
    state = state_of(*parts)
    assert state.resumed(10).runs == [(10, 14), (16, 18), (30, 31)]
    assert state.resumed(10).retries == {15: Resting(2, 1000)}
    assert state.resumed(14).runs == [(16, 18), (30, 31)], (
        "it was killed before it heard that it had committed"
    )
    for foreign in (0, 9, 11, 13, 15, 100, None):  # a rewind, another owner, offsets that were deleted
        assert state.resumed(foreign) == JournalState(committed=foreign)
    assert state_of(*parts, journal.committed(14)).resumed(10).runs == [], "a rewind to where it once was"
    fresh = state_of(journal.progress(5, 8, []))
    assert fresh.resumed(None).runs == [(5, 8)] and fresh.resumed(6).runs == []


def test_history_of_a_journal_joins_that_of_the_metadata() -> None:
    metadata = finished.encode(10, [(12, 14), (20, 22)])
    progress = PartitionProgress(
        TopicPartition("t", 0), OffsetAndMetadata(10, metadata), also_done=[(10, 11), (13, 16)]
    )
    assert [offset for offset in range(10, 24) if progress.was_done(offset)] == [10, 12, 13, 14, 15, 20, 21]


# ---------------------------------------------------------------- the shelf


@MORE
@given(steps=st.lists(st.tuples(st.sampled_from("arrtc"), st.integers(1, 5)), max_size=60))
def test_a_shelf_gives_back_in_order_what_was_not_taken(steps: list[tuple[str, int]]) -> None:
    """Against a plain list of what stands on disk."""
    shelf, disk, given = Shelf((), 0), {}, []
    for step, number in steps:
        if step == "a":
            taken, start = not shelf.behind and number % 2 == 0, shelf.end
            segment, before = shelf.add(
                start + number, number, 7, 10, header_bytes=5, segment_bytes=150, taken=taken
            )
            disk.setdefault(segment.name, [])
            assert bool(before) == bool(disk[segment.name])
            disk[segment.name].append((before or 5, start, start + number))
            given += range(start, start + number) if taken else ()
        elif step == "r" and shelf.behind:
            place = shelf.next_place()
            frames = [f for f in disk[place.segment.name] if f[0] >= place.position and f[2] > place.offset]
            position, start, end = frames[0]
            given += range(max(start, place.offset), end)
            shelf.read_to(place, position + 10 + 36, end)
        elif step == "t":
            for segment in shelf.trim(min(shelf.taken, shelf.end - number), 100):
                del disk[segment.name]
        elif step == "c" and number == 5:
            at = shelf.taken
            for segment in shelf.clear(at):
                del disk[segment.name]
        assert shelf.records == sum(segment.records for segment in shelf.segments)
        assert shelf.size_bytes == sum(segment.size_bytes for segment in shelf.segments)
        assert given == list(range(shelf.taken)), "a gap, or a record twice"
        assert {segment.name for segment in shelf.segments} == set(disk)


def test_what_is_committed_without_having_been_read_again_is_passed_over() -> None:
    a, b = Segment(0, 10, 100, 10), Segment(10, 20, 100, 10)
    shelf = Shelf([a, b], 3)
    assert shelf.trim(10, 0) == [a]
    assert (shelf.taken, shelf.next_place()) == (10, (b, 0, 10))
    assert shelf.trim(25, 0) == [b] and not shelf.behind and shelf.taken == 20


def test_segments_are_used_where_the_commit_lies_in_them() -> None:
    a, b, c = Segment(10, 20, 1, 1), Segment(20, 30, 1, 1), Segment(35, 40, 1, 1)
    assert adjoining([c, b, a], 15) == ([a, b], [c])
    assert adjoining([a, b, c], 20) == ([b], [a, c])
    assert adjoining([a, b, c], 36) == ([c], [a, b])
    for outside in (9, 30, 33, 40, 50):
        assert adjoining([a, b, c], outside) == ([], [a, b, c])
    assert adjoining([a, b], None) == ([a, b], []) and adjoining([a, b, c], None) == ([], [a, b, c])


# ---------------------------------------------------------------- what is noted


def ownership(committed: int | None = 10, **resting: Resting) -> tuple[JournaledOwnership, Notes]:
    entry = None if committed is None else OffsetAndMetadata(committed)
    notes = Notes(-1 if committed is None else committed, lambda at_once: None, has_done=True)
    owned = JournaledOwnership(
        TopicPartition("t", 0),
        entry,
        1,
        notes=notes,
        clock_ms=lambda: 0.0,
        on_committed=lambda offset: None,
        also_done=[],
        resting={int(name[1:]): state for name, state in resting.items()},
    )
    return owned, notes


def test_what_is_done_and_committed_is_noted_once() -> None:
    owned, notes = ownership()
    for offset in range(10, 16):
        owned.added(offset, offset + 1)
    owned.added(16, 20)
    for offset in (10, 12, 13, 16):
        owned.done(offset)
    state = state_of(journal.committed(10), notes.take(owned.commit_offset))
    assert state.resumed(10).runs == [(10, 11), (12, 14), (16, 20)]
    assert notes.take(owned.commit_offset) == b"" and not notes.told
    entry = owned.to_commit()
    assert entry is not None and entry.offset == 11
    state = state_of(journal.committed(10), notes.take(owned.commit_offset))
    assert (state.committed, state.attempted) == (10, [11]), "a commit is noted before it is sent"
    owned.committed_as(entry)
    assert state_of(notes.take(owned.commit_offset)).committed == 11


def test_of_a_log_that_was_cut_nothing_but_commits_is_noted() -> None:
    owned, notes = ownership()
    notes.base = -1
    owned.added(10, 11)
    owned.added(11, 15)
    owned.retried(10, 2, 0.0)
    owned.done(11)
    assert state_of(notes.take(owned.commit_offset)) == JournalState()


def test_a_record_that_rested_keeps_its_key_and_its_attempts() -> None:
    """As later() of a retry topic, but in order."""
    in_an_hour = int(time.time() * 1000) + 3_600_000
    owned, _ = ownership(0, o1=Resting(3, in_an_hour), o2=Resting(2, 0))
    host = SimpleNamespace(waits_until=lambda due_ms: None, relieved=lambda partition: None)
    lane = RecordLane(
        "lane", "key", concurrency=10, timeout_s=None, policy=FailurePolicy(), breaker=None,
        load=Load(10**6, 10**9, lambda: None), host=host, clock_ms=lambda: 0.0, chance=lambda: 0.5,
    )  # fmt: skip
    builder = BatchBuilder()
    for key in (b"a", b"b", b"c", b"b", b"a"):
        builder.append(0, key, b"")
    lane.add(owned, decode_batches(builder.build(), topic="t"), 5)
    first, second = lane.take(), lane.take()
    assert first is not None and second is not None and lane.take() is None
    assert [(work.payload.offset, work.attempts) for work in (first, second)] == [(0, 0), (2, 2)]
    assert lane.resting == 1 and not owned.has_resting
    assert not lane.due(3_500_000) and lane.due(3_600_001)
    third = lane.take()
    assert third is not None and (third.payload.offset, third.attempts) == (1, 3)
    for work in (first, second, third):
        lane.finished(work, None)
    assert [lane.take().payload.offset for _ in range(2)] == [4, 3]  # type: ignore[union-attr]


# ---------------------------------------------------------------- the store


def records(first: int, count: int, size: int = 10) -> ConsumerRecords:
    """Of the partition, from this offset on."""
    builder = BatchBuilder()
    for number in range(first + count):
        builder.append(0, None, b"%d" % number + b"." * size)
    return decode_batches(builder.build(), topic="topic", partition=0, offset=first)[0:count]


def store_of(folder: Path, max_bytes: int = 2**20) -> Store:
    return Store(folder, max_bytes, {}, lambda: None)


async def test_two_instances_have_a_folder_each_and_find_it_again(tmp_path: Path) -> None:
    first, second = store_of(tmp_path), store_of(tmp_path)
    await first.open("group", None)
    await second.open("group", None)
    taken = await first.take_over(OURS, 0)
    assert first.append(taken.shelved, records(0, 5), 5, taken=True)
    other = await second.take_over(OURS, 0)
    assert not other.shelved.shelf.behind, "another's files were read"
    await first.close()
    third = store_of(tmp_path)
    await third.open("group", None)
    assert (await third.take_over(OURS, 2)).shelved.shelf.behind
    await second.close()
    await third.close()


async def test_a_folder_in_use_is_refused_to_a_static_member(tmp_path: Path) -> None:
    first, second = store_of(tmp_path), store_of(tmp_path)
    await first.open("group", "1")
    with pytest.raises(ConfigError, match=r"in use .*group\.instance\.id"):
        await second.open("group", "1")
    await first.close()
    await second.open("group", "1")
    await second.close()


async def test_records_come_back_from_the_offset_on(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    await store.open("group", None)
    shelved, _ = await store.take_over(OURS, 3)
    for first in (3, 8, 13):
        assert store.append(shelved, records(first, 5), first + 5, taken=True)
    await store.close()
    store = store_of(tmp_path)
    await store.open("group", None)
    shelved, _ = await store.take_over(OURS, 10)
    runs = await store.read(shelved, 10**6)
    assert [(run[0].offset, run[-1].offset, end) for run, end in runs] == [(10, 12, 13), (13, 17, 18)]
    assert runs[1][0][0].value == b"13" + b"." * 10 and not shelved.shelf.behind
    await store.close()


async def test_others_files_make_room_and_the_limit_holds(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    await store.open("group", None)
    old = (await store.take_over(OURS, 0)).shelved
    at = 0
    while store.append(old, records(at, 1, 100_000), at + 1, taken=True):
        at += 1
    assert 7 <= at <= 10 and store.size_bytes <= 2**20
    store.give_up(old)
    new = (await store.take_over(Identity("group", "other", 0, bytes(16)), 0)).shelved
    for first in range(9):
        assert store.append(new, records(first, 1, 100_000), first + 1, taken=True)
    await store.close()
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 2**20
    assert not old.folder.exists()


async def test_what_waits_for_the_disk_is_bounded(tmp_path: Path) -> None:
    """The thread stands still; whoever appends is to wait."""
    store, may_go = store_of(tmp_path, 10**9), threading.Event()
    await store.open("group", None)
    shelved = (await store.take_over(OURS, 0)).shelved
    store._ask(may_go.wait)
    run = records(0, 1, 1_000_000)
    for at in range(40):
        store.append(shelved, run, at + 1, taken=True)
    waits = asyncio.ensure_future(store.room())
    await asyncio.sleep(0)
    assert not waits.done()
    may_go.set()
    await waits
    await store.close()


async def test_a_journal_is_rewritten_when_it_grows(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    await store.open("group", None)
    shelved = (await store.take_over(OURS, 0)).shelved
    for at in range(3000):
        store.note([(shelved, journal.progress(0, at, [at + 2]))])
        if at % 500 == 0:
            await store._run(lambda: None)
            await asyncio.sleep(0)
    await store.close()
    assert (shelved.folder / JOURNAL_NAME).stat().st_size < 60_000
    assert Disk().found(shelved.folder, OURS)[1].resumed(0).runs == [(0, 3002)]


async def test_a_failing_disk_is_told_once_and_nothing_is_written_after(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[int] = []
    store = Store(tmp_path, 2**20, {}, lambda: told.append(1))
    await store.open("group", None)
    shelved = (await store.take_over(OURS, 0)).shelved
    (shelved.folder / Segment(0, 0, 0, 0).name).mkdir()
    assert store.append(shelved, records(0, 5), 5, taken=True)
    store.append(shelved, records(5, 5), 10, taken=True)  # whether the thread has failed yet or not
    await store._run(lambda: None)
    await asyncio.sleep(0)
    assert not store.working and told == [1]
    assert not store.append(shelved, records(10, 5), 15, taken=True)
    assert caplog.text.count("switched off") == 1
    await store.close()


# ---------------------------------------------------------------- what is asked for


def test_a_spool_that_holds_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1 MiB"):
        Spool("here", max_bytes="1MB")
    assert Spool("here", max_bytes="2GiB").max_bytes == 2 << 30
