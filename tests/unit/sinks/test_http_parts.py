"""The pure parts of HttpSink: what an answer means, what a request is made of, what may be under way together."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.sinks.http_answers import outcome_of, retry_after_s
from penstock.sinks.http_requests import Bodies, key_of, lanes_of, offsets_text, runs_of
from tests.support.sinks import records_of


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(200, "done"), (201, "done"), (204, "done"), (301, "stop"), (308, "stop"), (400, "refused"), (401, "stop"), (403, "stop"),
     (404, "stop"), (408, "again"), (410, "refused"), (413, "refused"), (422, "refused"), (425, "again"), (429, "again"),
     (500, "again"), (503, "again"), (599, "again")],
)  # fmt: skip
def test_what_a_status_means(status: int, outcome: str) -> None:
    assert outcome_of(status, "again") == outcome


@pytest.mark.parametrize("conflict", ["again", "done", "refused"])
def test_a_conflict_means_what_is_said(conflict: Any) -> None:
    assert outcome_of(409, conflict) == conflict


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [(None, 0), ("0", 0), (" 7 ", 7), ("999999999999999999999", 300), ("-5", 0), ("soon", 0), ("\u0663", 0), ("", 0),
     ("Wed, 14 Nov 2023 22:13:30 GMT", 10), ("Wed, 14 Nov 2023 22:13:30 -0000", 10), ("Wed, 14 Nov 2001 22:13:30 GMT", 0),
     ("Wed, 99 Nov 2023 22:13:30 GMT", 0)],
)  # fmt: skip
def test_retry_after(header: str | None, wait_s: float) -> None:
    assert retry_after_s(header, 1_700_000_000) == wait_s


@given(st.lists(st.integers(0, 60), unique=True).map(sorted))
def test_runs_name_each_offset_once(offsets: list[int]) -> None:
    runs = runs_of(offsets)
    assert [n for first, last in runs for n in range(first, last + 1)] == offsets
    assert all(after[0] > before[1] + 1 for before, after in itertools.pairwise(runs))


def test_keys_and_offsets() -> None:
    records = list(records_of([b"1", b"2", b"3"], topic="a.b_c", partition=4, offset=7))
    assert key_of("größe/1 2", records[:1], is_range=False) == "gr%C3%B6%C3%9Fe%2F1%202/a.b_c/4/7"
    assert key_of("g", records, is_range=True) == "g/a.b_c/4/7-9"
    assert offsets_text([4, 5, 6, 9, 11, 12]) == "4-6,9,11-12"


@given(
    st.lists(st.none() | st.integers(0, 5), max_size=40),
    st.sets(st.integers(0, 39)),
    st.integers(1, 5),
    st.integers(0, 7),
)
def test_lanes_keep_the_order_of_keys_and_leave_nothing_out(
    keys: list[int | None], skip: set[int], concurrency: int, batch: int
) -> None:
    records = records_of([(None if key is None else b"%d" % key, b"") for key in keys])
    lanes = lanes_of(records, skip, concurrency=concurrency, batch=batch)
    sent = [[index for request in lane for index in request] for lane in lanes]
    assert sorted(index for lane in sent for index in lane) == [n for n in range(len(keys)) if n not in skip]
    assert all(lane == sorted(lane) for lane in sent)
    lane_of = {index: number for number, lane in enumerate(sent) for index in lane}
    for key in {key for key in keys if key is not None}:
        assert len({lane_of[n] for n, other in enumerate(keys) if other == key and n in lane_of}) <= 1
    assert all(len(request) <= max(batch, 1) for lane in lanes for request in lane)


def test_a_batch_is_cut_where_its_offsets_have_many_gaps() -> None:
    records = records_of([b""] * 1000)
    (lane,) = lanes_of(records[::2], set(), concurrency=1, batch=1000)
    assert sum(map(len, lane)) == 500 and max(map(len, lane)) == 100


def test_bodies() -> None:
    (record,) = records_of([(b"k", b'{"a": {"b": [1]}, "c": 1.5}', [("h", b"x")])])
    assert Bodies("value", None, "json").of(record) == record.raw_value
    columns = {
        "id": "key",
        "b": "value.a.b",
        "c": "value.c",
        "at": "offset",
        "raw": "value",
        "none": "value.x",
        "h": "headers",
    }
    made = Bodies("json", columns, "json").of(record)
    assert json.loads(made) == {
        "id": "k",
        "b": [1],
        "c": 1.5,
        "at": 0,
        "raw": record.raw_value.decode(),
        "none": None,
        "h": [["h", "x"]],
    }
    for given_, expected in [
        (b"\xff", b"\xff"),
        ("é", "é".encode()),
        ({"a": 1}, b'{"a":1}'),
        (None, b"null"),
        ([1], b"[1]"),
    ]:
        assert Bodies(lambda _, given_=given_: given_, None, "json").of(record) == expected
    (gone,) = records_of([(b"k", None)])
    assert Bodies("value", None, "json").of(gone) == b""


def test_bodies_of_many() -> None:
    records = records_of([b'{"a": 1}', b'{"a":\n2}', None, b"[3]"])
    for style in ("json", "ndjson"):
        bodies = Bodies("value", None, style)  # type: ignore[arg-type]
        made = bodies.of_many([bodies.part(record) for record in records])
        found = json.loads(made) if style == "json" else [json.loads(line) for line in made.splitlines()]
        assert found == [{"a": 1}, {"a": 2}, None, [3]]
    for value in (b"no json", b"\xff", b"NaN", b"[1"):
        with pytest.raises(ValueError):
            Bodies("value", None, "json").part(records_of([value])[0])


@pytest.mark.parametrize(
    "given_",
    [
        ("other", None, "json"),
        ("json", None, "json"),
        ("value", {"a": "key"}, "json"),
        ("value", None, "xml"),
    ],
)
def test_mistakes_are_told(given_: Any) -> None:
    with pytest.raises(ConfigError):
        Bodies(*given_)
