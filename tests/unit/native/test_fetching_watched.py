"""The fetcher as an event loop and a metrics reader see it: a descriptor, places of many partitions, counters."""

from __future__ import annotations

import select
from collections.abc import Iterator

import pytest

from penstock._native import Fetcher
from penstock.errors import ClosedError

from .scripted import PATIENCE_S, Bench, Part, batch

LONG_MS = int(PATIENCE_S * 1000)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(partitions=3)
    yield made
    made.close()


def readable(fetcher: Fetcher, timeout_s: float = 0) -> bool:
    return bool(select.select([fetcher.fileno()], [], [], timeout_s)[0])


def settled(fetcher: Fetcher) -> None:
    """Take what is there, until the descriptor says that nothing is left."""
    while readable(fetcher):
        fetcher.poll(1000, 0)


def test_the_descriptor_is_readable_while_records_are_left(bench: Bench) -> None:
    assert not readable(bench.fetcher)
    bench.broker.fetch().answer(Part(0, batch(0, 3)), Part(1, batch(0, 2)))
    assert readable(bench.fetcher, PATIENCE_S)
    taken = 0
    while taken < 5:
        assert readable(bench.fetcher, PATIENCE_S)
        taken += len(bench.fetcher.poll(1, 0))
    settled(bench.fetcher)
    assert not readable(bench.fetcher)
    bench.broker.fetch().answer(Part(0, batch(3)))
    assert readable(bench.fetcher, PATIENCE_S)


def test_what_came_before_the_first_watcher_counts(bench: Bench) -> None:
    bench.broker.fetch().answer(Part(0, batch(0, 3)))
    bench.broker.fetch()  # sent after the records were taken up
    assert readable(bench.fetcher, PATIENCE_S)
    assert bench.fetcher.buffered_records() == 3


def test_wake_error_and_close_make_it_readable(bench: Bench) -> None:
    settled(bench.fetcher)
    bench.fetcher.wake()
    assert readable(bench.fetcher)
    assert not bench.fetcher.poll(10, 0)
    settled(bench.fetcher)
    bench.fetcher.fail(bench.handles[0], LookupError("no such thing"))
    assert readable(bench.fetcher)
    with pytest.raises(LookupError):
        bench.fetcher.poll(10, 0)
    assert readable(bench.fetcher), "the error is raised again until a seek"
    bench.fetcher.seek(bench.handles[0], 0)
    settled(bench.fetcher)
    bench.fetcher.close()
    assert readable(bench.fetcher)
    with pytest.raises(ClosedError):
        bench.fetcher.poll(10, 0)
    assert readable(bench.fetcher)


def test_a_paused_partition_alone_does_not_make_it_readable(bench: Bench) -> None:
    bench.broker.fetch().answer(Part(0, batch(0, 3)))
    assert readable(bench.fetcher, PATIENCE_S)
    bench.fetcher.pause(bench.handles)
    assert not bench.fetcher.poll(10, 0)
    settled(bench.fetcher)
    assert not readable(bench.fetcher)
    bench.fetcher.resume(bench.handles)
    assert readable(bench.fetcher)
    assert len(bench.fetcher.poll(10, 0)) == 3


def test_no_wake_up_is_lost_over_many_rounds(bench: Bench) -> None:
    """Answers arrive while poll() lowers the descriptor: each must be found by waiting on the descriptor alone."""
    rounds = 300
    for base in range(rounds):
        bench.broker.fetch().answer(Part(0, batch(base)))
        if base % 3:  # sometimes a poll looks at just that moment
            bench.fetcher.poll(1, 0)
    taken = bench.fetcher.stats()["records_returned"]
    while taken < rounds:
        assert readable(bench.fetcher, PATIENCE_S), f"{taken} of {rounds} records came"
        taken += len(bench.fetcher.poll(7, 0))


def test_places_tell_many_partitions_at_once(bench: Bench) -> None:
    bench.broker.fetch().answer(Part(0, batch(0, 3)), Part(1, high_watermark=7, last_stable_offset=6))
    assert len(bench.poll_all(3)) == 3
    bench.fetcher.unassign([bench.handles[2]])
    without_position = bench.fetcher.assign("t", bytes(16), 9)
    assert bench.fetcher.places([*bench.handles, without_position]) == [
        (3, 1000, 900, 5),
        (0, 7, 6, 5),
        (-1, -1, -1, -1),
        (-1, -1, -1, -1),
    ]
    assert bench.fetcher.places([]) == []


def test_counters_of_what_was_fetched_and_returned(bench: Bench) -> None:
    first, second = batch(0, 4, size=100), batch(0, 2, size=50)
    bench.broker.fetch().answer(Part(0, first), Part(1, second), throttle_ms=3)
    bench.broker.fetch().answer(throttle_ms=2)
    bench.broker.fetch()
    assert len(bench.poll_all(6)) == 6
    stats = bench.fetcher.stats()
    assert stats["fetch_bytes"] == len(first) + len(second)
    assert (stats["throttle_ms_total"], stats["throttle_ms_max"]) == (5, 3)
    assert (stats["records_returned"], stats["bytes_returned"]) == (6, 4 * 101 + 2 * 51)
    assert 0 < stats["fetch_latency_us_max"] <= stats["fetch_latency_us_total"]
    assert [bench.fetcher.partition_stats(handle) for handle in bench.handles] == [(4, 404), (2, 102), (0, 0)]
    bench.fetcher.unassign(bench.handles)
    with pytest.raises(KeyError):
        bench.fetcher.partition_stats(bench.handles[0])


def test_bytes_are_counted_where_a_chunk_is_returned_in_parts(bench: Bench) -> None:
    bench.broker.fetch().answer(Part(0, batch(0, 9)))
    polled = bench.poll_all(9, max_records=2)
    assert len(polled) == 9
    assert bench.fetcher.partition_stats(bench.handles[0]) == (9, 9 * 11)
