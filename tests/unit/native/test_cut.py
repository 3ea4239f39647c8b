"""Fetcher.cut: what was fetched beyond the end of a log is forgotten in one step, and the position stays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .scripted import PATIENCE_S, Bench, Part, batch

LONG_MS = int(PATIENCE_S * 1000)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def test_what_reaches_beyond_the_end_is_fetched_again_from_the_position(bench: Bench) -> None:
    (handle,) = bench.handles
    bench.broker.fetch().answer(Part(records=batch(0, 10)))
    under_way = bench.broker.fetch()
    assert [r.offset for r in bench.fetcher.poll(4, LONG_MS)] == [0, 1, 2, 3]
    epoch = bench.fetcher.epoch(handle)
    assert bench.fetcher.cut(handle, 10) == (4, 7)
    assert (bench.fetcher.epoch(handle), bench.fetcher.buffered_records()) == (epoch, 6)
    assert bench.fetcher.cut(handle, 9) == (4, 7)
    assert bench.fetcher.epoch(handle) != epoch
    assert bench.fetcher.buffered_records() == 0
    assert bench.fetcher.position(handle) == (4, 7)
    under_way.answer(Part(records=batch(10, 10)))
    call = bench.broker.fetch()
    assert call.offset() == 4
    call.answer(Part(records=batch(4, 2)))
    assert [r.offset for r in bench.poll_all(2)] == [4, 5]


def test_without_position_there_is_nothing_to_cut(bench: Bench) -> None:
    (handle,) = bench.handles
    bench.fetcher.seek(handle, -1)
    assert bench.fetcher.cut(handle, 0) is None
    assert bench.fetcher.cut(handle + 1000, 0) is None
