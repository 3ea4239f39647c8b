"""Fetch sessions (KIP-227), followers (KIP-392) and diverging logs (KIP-595), against a peer that says exactly what is wanted."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from penstock._native import (
    EVENT_CLOSED,
    EVENT_DIVERGING,
    EVENT_FETCH_ERROR,
    EVENT_FETCH_NODE_ERROR,
    EVENT_PREFERRED_REPLICA,
    crc32c,
)

from .scripted import PATIENCE_S, TOPIC_ID, Bench, Call, Part, batch

MakeBench = Callable[..., Bench]
SESSION = 77


@pytest.fixture
def bench() -> Iterator[MakeBench]:
    made: list[Bench] = []

    def make(*args: Any, **settings: Any) -> Bench:
        made.append(Bench(*args, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


def opened(b: Bench, *parts: Part) -> Call:
    """The first request, answered with a session; the one after it."""
    call = b.broker.fetch()
    assert call.session == (0, 0)
    assert len(call.partitions) == len(b.handles)
    call.answer(*parts, session_id=SESSION)
    return b.broker.fetch()


def numbers(call: Call) -> list[int]:
    return [number for _, number, _ in call.partitions]


# ---------------------------------------------------------------- what is listed


@pytest.mark.parametrize("version", range(7, 18))
def test_after_the_first_request_only_changes_are_listed(bench: MakeBench, version: int) -> None:
    b = bench(partitions=4, version=version)
    call = opened(b, *[Part(number) for number in range(4)])
    topic = "t" if version < 13 else TOPIC_ID
    assert (call.session, call.partitions, call.forgotten) == ((SESSION, 1), [], [])
    call.answer(Part(2, batch(0, 3)), session_id=SESSION)
    call = b.broker.fetch()
    assert (call.session, call.partitions, call.forgotten) == ((SESSION, 2), [(topic, 2, 3)], [])
    b.fetcher.pause([b.handles[0]])
    b.fetcher.unassign([b.handles[1]])
    b.fetcher.seek(b.handles[3], 500)
    call.answer(session_id=SESSION)
    call = b.broker.fetch()
    assert (call.session, call.partitions) == ((SESSION, 3), [(topic, 3, 500)])
    assert call.forgotten == [(topic, 0), (topic, 1)]
    b.fetcher.resume([b.handles[0]])
    call.answer(session_id=SESSION)
    call = b.broker.fetch()
    assert (call.session, call.partitions, call.forgotten) == ((SESSION, 4), [(topic, 0, 0)], [])
    assert len(b.poll_all(3)) == 3


def test_before_version_7_there_are_none(bench: MakeBench) -> None:
    b = bench(partitions=2, version=6)
    b.broker.fetch().answer(Part(0), Part(1))
    assert len(b.broker.fetch().partitions) == 2


def test_a_broker_without_room_for_a_session_is_asked_for_everything(bench: MakeBench) -> None:
    b = bench(partitions=2)
    for _ in range(3):
        call = b.broker.fetch()
        assert (call.session, len(call.partitions)) == ((0, 0), 2)
        call.answer(Part(0), Part(1), session_id=0)


def test_an_answer_without_a_partition_says_nothing_new_of_it(bench: MakeBench) -> None:
    b = bench(partitions=2)
    call = opened(b, Part(0, high_watermark=11), Part(1, high_watermark=12))
    call.answer(Part(1, batch(0), high_watermark=13), session_id=SESSION)
    b.poll_all(1)
    assert [place[:2] for place in b.fetcher.places(b.handles)] == [(0, 11), (1, 13)]


def test_the_cost_follows_what_changes(bench: MakeBench) -> None:
    """10,000 partitions of which one has news: requests name that one."""
    b = bench(partitions=10_000)
    call = b.broker.fetch()
    while len(call.partitions) < 10_000:  # one may have left before all had a position
        call.answer()
        call = b.broker.fetch()
    call.answer(session_id=SESSION)
    asked = b.fetcher.stats()["partitions_asked"]
    for round_ in range(50):
        call = b.broker.fetch()
        assert numbers(call) == ([] if round_ == 0 else [7_777])
        call.answer(Part(7_777, batch(round_)), session_id=SESSION)
    b.poll_all(50)
    assert b.fetcher.stats()["partitions_asked"] <= asked + 50


def test_nothing_is_asked_while_nothing_is_wanted_and_then_all_at_once(bench: MakeBench) -> None:
    b = bench(partitions=2)
    call = opened(b)
    b.fetcher.pause(b.handles)
    call.answer(session_id=SESSION)
    b.fetcher.seek(b.handles[1], 9)
    b.fetcher.resume([b.handles[1]])
    call = b.broker.fetch()
    assert (call.session, call.partitions, call.forgotten) == ((SESSION, 2), [("t", 1, 9)], [("t", 0)])


def test_a_partition_assigned_anew_is_listed_and_not_forgotten(bench: MakeBench) -> None:
    """Of a partition that a request both lists and forgets, the broker forgets it."""
    b = bench(partitions=2)
    call = opened(b)
    b.fetcher.unassign([b.handles[0]])
    handle = b.fetcher.assign("t", TOPIC_ID.bytes, 0)
    b.fetcher.set_leader(handle, 1, 7)
    b.fetcher.seek(handle, 44)
    call.answer(Part(0, batch(0)), session_id=SESSION)
    call = b.broker.fetch()
    assert (call.partitions, call.forgotten) == ([("t", 0, 44)], [])
    call.answer(Part(0, batch(44)), session_id=SESSION)
    assert [record.offset for record in b.poll_all(1)] == [44]


def test_a_seek_to_the_same_offset_is_another_epoch_of_the_same_request(bench: MakeBench) -> None:
    b = bench()
    call = opened(b)
    b.fetcher.seek(b.handles[0], 0)
    call.answer(session_id=SESSION)
    call = b.broker.fetch()
    assert call.partitions == []
    call.answer(Part(0, batch(0)), session_id=SESSION)
    assert [record.offset for record in b.poll_all(1)] == [0]


def test_failed_and_suspended_partitions_are_forgotten_until_they_go_on(bench: MakeBench) -> None:
    b = bench(partitions=3)
    call = opened(b)
    call.answer(Part(0, error=6), Part(1, b"\xff" * 40), session_id=SESSION)
    call = b.broker.fetch()
    assert (call.partitions, call.forgotten) == ([], [("t", 0), ("t", 1)])
    b.event(EVENT_FETCH_ERROR)
    b.fetcher.set_leader(b.handles[0], 1, 8)
    b.fetcher.seek(b.handles[1], 5)
    call.answer(session_id=SESSION)
    assert b.broker.fetch().partitions == [("t", 0, 0), ("t", 1, 5)]


def test_a_moved_partition_leaves_one_session_and_enters_the_other(bench: MakeBench) -> None:
    b = bench(partitions=2)
    call = opened(b)
    b.fetcher.set_leader(b.handles[0], 2, 8)
    call.answer(session_id=SESSION)
    first = b.broker.fetch()
    assert (first.partitions, first.forgotten) == ([], [("t", 0)])
    b.node_id = 2
    b.attach()
    second = b.broker.fetch()
    assert (second.session, second.partitions) == ((0, 0), [("t", 0, 0)])


# ---------------------------------------------------------------- its end


@pytest.mark.parametrize(("error", "session"), [(70, (0, 0)), (71, (SESSION, 0))])
def test_a_lost_session_costs_one_full_request_and_nothing_else(
    bench: MakeBench, error: int, session: tuple[int, int]
) -> None:
    b = bench(partitions=3)
    call = opened(b)
    call.answer(Part(1, batch(0, 2)), session_id=SESSION)
    b.broker.fetch().answer(error=error)
    call = b.broker.fetch()
    assert (call.session, call.forgotten) == (session, [])
    assert sorted(call.partitions) == [("t", 0, 0), ("t", 1, 2), ("t", 2, 0)]
    call.answer(Part(1, batch(2, 2)), session_id=SESSION + 1)
    call = b.broker.fetch()
    assert (call.session, call.partitions) == ((SESSION + 1, 1), [("t", 1, 4)])
    assert [record.offset for record in b.poll_all(4)] == [0, 1, 2, 3]
    assert b.fetcher.stats()["session_resets"] == 1


@pytest.mark.parametrize("error", [100, 103, 106])
def test_topic_ids_at_odds_cost_a_full_request_and_ask_for_metadata(bench: MakeBench, error: int) -> None:
    b = bench(partitions=2, version=13)
    opened(b).answer(error=error)
    call = b.broker.fetch()
    assert (call.session, len(call.partitions)) == ((SESSION, 0), 2)
    assert b.event(EVENT_FETCH_NODE_ERROR) == (EVENT_FETCH_NODE_ERROR, 1, error, None)


def test_sessions_that_are_lost_again_and_again_lose_nothing(bench: MakeBench) -> None:
    b = bench(partitions=2)
    for base in range(4):
        call = b.broker.fetch()
        assert sorted(call.partitions) == [("t", 0, base), ("t", 1, 0)]
        call.answer(Part(0, batch(base)), session_id=SESSION + base)
        b.broker.fetch().answer(error=70)
        b.broker.fetch().answer(error=70)
    assert [record.offset for record in b.poll_all(4)] == [0, 1, 2, 3]


def test_a_session_that_the_broker_ends_begins_anew(bench: MakeBench) -> None:
    b = bench(partitions=2)
    opened(b).answer(session_id=0)
    call = b.broker.fetch()
    assert (call.session, len(call.partitions)) == ((0, 0), 2)


def test_a_new_connection_ends_the_session_of_the_one_before(bench: MakeBench) -> None:
    b = bench(partitions=2)
    opened(b)
    b.connections[0].close()
    b.event(EVENT_CLOSED)
    b.attach()
    call = b.broker.fetch()
    assert (call.session, len(call.partitions)) == ((SESSION, 0), 2)


# ---------------------------------------------------------------- topic ids


def test_a_topic_made_anew_is_forgotten_under_its_old_id(bench: MakeBench) -> None:
    b = bench(partitions=2, version=13)
    call = opened(b)
    new = uuid.UUID(int=99)
    b.fetcher.set_topic_id(b.handles[0], new.bytes)
    b.fetcher.seek(b.handles[0], 0)
    call.answer(Part(0, batch(7)), session_id=SESSION)
    call = b.broker.fetch()
    assert (call.partitions, call.forgotten) == ([(new, 0, 0)], [(TOPIC_ID, 0)])
    call.answer(Part(0, batch(0), topic_id=new), session_id=SESSION)
    assert [record.offset for record in b.poll_all(1)] == [0]


def test_another_way_of_naming_topics_is_another_session(bench: MakeBench) -> None:
    b = bench(version=17)
    call = opened(b)
    assert call.version == 17
    handle = b.fetcher.assign("u", bytes(16), 0)
    b.fetcher.set_leader(handle, 1, 0)
    b.fetcher.seek(handle, 8)
    call.answer(session_id=SESSION)
    call = b.broker.fetch()
    assert (call.version, call.session) == (12, (SESSION, 0))
    assert call.partitions == [("t", 0, 0), ("u", 0, 8)]
    call.answer(session_id=SESSION + 1)
    call = b.broker.fetch()
    b.fetcher.set_topic_id(handle, uuid.UUID(int=5).bytes)
    call.answer(session_id=SESSION + 1)
    call = b.broker.fetch()
    assert (call.version, call.session) == (17, (SESSION + 1, 0))
    assert call.partitions == [(TOPIC_ID, 0, 0), (uuid.UUID(int=5), 0, 8)]


# ---------------------------------------------------------------- followers


def test_a_partition_waits_for_a_word_about_its_nearer_follower(bench: MakeBench) -> None:
    b = bench(partitions=2, client_rack="a")
    call = b.broker.fetch()
    assert call.request.rack_id == "a"
    call.answer(Part(0, preferred_read_replica=2), Part(1), session_id=SESSION)
    handle, epoch = b.handles[0], b.fetcher.epoch(b.handles[0])
    assert b.event(EVENT_PREFERRED_REPLICA) == (EVENT_PREFERRED_REPLICA, handle, epoch, 2)
    call = b.broker.fetch()
    assert call.forgotten == [("t", 0)]
    b.fetcher.set_read_replica(handle, 2)
    b.node_id = 2
    b.attach()
    follower = b.broker.fetch()
    assert follower.partitions == [("t", 0, 0)]
    follower.answer(Part(0, batch(0, 2)), session_id=5)
    assert [record.offset for record in b.poll_all(2)] == [0, 1]
    b.broker.fetch()
    assert set(b.fetcher.node_stats()) == {1, 2}
    assert b.fetcher.node_stats()[2] == (2, len(batch(0, 2)))


def test_what_a_follower_sent_and_nobody_had_room_for_leaves_the_epoch_known(bench: MakeBench) -> None:
    """A follower is not told the epoch of the last record; what it sent is lost with its connection; the leader is told again."""
    b = bench(client_rack="a", buffer_bytes=20_000)
    b.broker.fetch().answer(Part(0, batch(0, 1, size=9_000, epoch=6)))
    b.broker.fetch().answer(Part(0, batch(1, 1, size=9_000, epoch=6)))
    call = b.broker.fetch()
    call.answer(Part(0, preferred_read_replica=2))
    b.event(EVENT_PREFERRED_REPLICA)
    b.fetcher.set_read_replica(b.handles[0], 2)
    b.node_id = 2
    follower = b.attach()
    call = b.broker.fetch()
    assert call.request.topics[0].partitions[0].last_fetched_epoch == -1
    call.answer(Part(0, batch(2, 1, size=9_000, epoch=6)))
    while b.fetcher.stats()["full_waits"] == 0:
        assert b.fetcher.buffered_bytes() <= 20_000
    assert b.broker.fetch().offset() == 3
    follower.close()
    b.event(EVENT_CLOSED)
    b.fetcher.set_read_replica(b.handles[0], -1)
    call = b.broker.fetch()
    assert call.offset() == 2
    assert call.request.topics[0].partitions[0].last_fetched_epoch == 6


def test_back_at_the_leader_no_rack_is_named_for_a_while(bench: MakeBench) -> None:
    b = bench(client_rack="a")
    b.broker.fetch().answer(Part(0, preferred_read_replica=2))
    b.event(EVENT_PREFERRED_REPLICA)
    b.fetcher.set_read_replica(b.handles[0], 2)
    b.fetcher.set_read_replica(b.handles[0], -1, 3_600_000)
    call = b.broker.fetch()
    assert (call.partitions, call.request.rack_id) == ([("t", 0, 0)], "")
    call.answer(Part(0, batch(0)))
    assert [record.offset for record in b.poll_all(1)] == [0]


def test_an_error_tells_which_node_it_came_from(bench: MakeBench) -> None:
    b = bench(node_id=1)
    b.broker.fetch()  # is never answered
    b.fetcher.set_read_replica(b.handles[0], 3)
    b.node_id = 3
    b.attach()
    b.broker.fetch().answer(Part(0, error=1))
    assert b.event(EVENT_FETCH_ERROR)[3] == (1, 0, -1, -1, 3)
    b.fetcher.set_leader(b.handles[0], 3, 8)  # the follower leads now
    b.fetcher.set_read_replica(b.handles[0], 3)
    b.fetcher.set_leader(b.handles[0], -1, -1)
    b.fetcher.set_leader(b.handles[0], 3, 9)
    assert b.broker.fetch().offset() == 0


# ---------------------------------------------------------------- diverging logs


def last_epoch(call: Call, partition: int = 0) -> int:
    (epoch,) = [
        p.last_fetched_epoch
        for topic in call.request.topics
        for p in topic.partitions
        if p.partition == partition
    ]
    return int(epoch)


def test_requests_name_the_epoch_of_the_last_batch(bench: MakeBench) -> None:
    b = bench()
    call = b.broker.fetch()
    assert last_epoch(call) == -1
    call.answer(Part(0, batch(0, 2, epoch=4) + batch(2, 1, epoch=5)))
    call = b.broker.fetch()
    assert (call.offset(), last_epoch(call)) == (3, 5)
    b.fetcher.seek(b.handles[0], 10, 6)
    call.answer()
    call = b.broker.fetch()
    assert (call.offset(), last_epoch(call)) == (10, 6)
    b.fetcher.seek(b.handles[0], 11)
    call.answer()
    assert last_epoch(b.broker.fetch()) == -1


def test_a_follower_is_not_told_the_epoch(bench: MakeBench) -> None:
    """A follower that lags has fewer records of that epoch, which would look like another log."""
    b = bench()
    b.broker.fetch()
    b.fetcher.seek(b.handles[0], 10, 6)
    b.fetcher.set_read_replica(b.handles[0], 2)
    b.node_id = 2
    b.attach()
    call = b.broker.fetch()
    assert (call.offset(), last_epoch(call)) == (10, -1)


def test_a_diverging_log_suspends_until_a_seek(bench: MakeBench) -> None:
    b = bench(partitions=2)
    b.fetcher.seek(b.handles[0], 100, 7)
    call = b.broker.fetch()
    while call.offset() != 100:
        call.answer()
        call = b.broker.fetch()
    call.answer(Part(0, diverging=(6, 80)), session_id=SESSION)
    handle, epoch = b.handles[0], b.fetcher.epoch(b.handles[0])
    assert b.event(EVENT_DIVERGING) == (EVENT_DIVERGING, handle, epoch, (6, 80))
    call = b.broker.fetch()
    assert call.forgotten == [("t", 0)]
    b.fetcher.set_leader(handle, 1, 8)
    call.answer(session_id=SESSION)
    call = b.broker.fetch()
    assert call.partitions == [], "a new leader's name does not mend it"
    b.fetcher.seek(handle, 80, 6)
    call.answer(session_id=SESSION)
    call = b.broker.fetch()
    assert (call.partitions, last_epoch(call)) == ([("t", 0, 80)], 6)


def test_an_epoch_without_records_is_no_divergence(bench: MakeBench) -> None:
    """The position's epoch 7 had no record: the leader ends epoch 6 where we are. Nothing was lost."""
    b = bench()
    b.fetcher.seek(b.handles[0], 100, 7)
    call = b.broker.fetch()
    while call.offset() != 100:
        call.answer()
        call = b.broker.fetch()
    call.answer(Part(0, diverging=(6, 100)))
    call = b.broker.fetch()
    assert (call.offset(), last_epoch(call)) == (100, 6)
    call.answer(Part(0, diverging=(6, 100)))  # makes no sense: it was just asked with that epoch
    call = b.broker.fetch()
    assert (call.offset(), last_epoch(call)) == (100, -1)
    assert EVENT_DIVERGING not in {event[0] for event in b.events.wait(0)}


def test_a_position_behind_a_marker_has_the_markers_epoch(bench: MakeBench) -> None:
    """Else a leader whose epoch ended before the marker would seem to have lost it."""
    b = bench()
    marker = batch(1, 1, epoch=9)
    control = marker[:21] + bytes([marker[21], marker[22] | 0x30]) + marker[23:]
    control = control[:17] + crc32c(control[21:]).to_bytes(4, "big") + control[21:]
    b.broker.fetch().answer(Part(0, batch(0, 1, epoch=8) + control))
    assert len(b.poll_all(1)) == 1
    while b.fetcher.position(b.handles[0]) != (2, 9):
        assert not b.fetcher.poll(1, int(PATIENCE_S * 1000))
