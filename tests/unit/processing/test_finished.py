"""What is done beyond the committed offset, written into a commit's metadata and read again."""

from __future__ import annotations

import base64
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.processing import finished

Ranges = list[tuple[int, int]]


@st.composite
def done_beyond(draw: st.DrawFn) -> tuple[int, Ranges]:
    offset = draw(st.integers(0, 2**62))
    lengths = draw(st.lists(st.tuples(st.integers(1, 10_000), st.integers(1, 10_000)), max_size=200))
    runs, at = [], offset
    for gap, length in lengths:
        runs.append((at + gap, at + gap + length))
        at += gap + length
    return offset, runs


@given(done_beyond())
def test_it_comes_back_whole_where_it_fits(case: tuple[int, Ranges]) -> None:
    offset, runs = case
    text = finished.encode(offset, runs, max_chars=1 << 20)
    assert finished.decode(offset, text) == runs


@given(done_beyond(), st.integers(0, 600))
def test_what_does_not_fit_is_left_out_from_the_end(case: tuple[int, Ranges], max_chars: int) -> None:
    offset, runs = case
    text = finished.encode(offset, runs, max_chars)
    assert len(text) <= max_chars
    kept = finished.decode(offset, text)
    assert kept == runs[: len(kept)]
    if len(kept) < len(runs):
        longer = finished.encode(offset, runs[: len(kept) + 1], max_chars=1 << 20)
        assert len(longer) > max_chars * 0.8, "more would have fitted easily"


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_hundred_thousand_offsets_in_any_mix_fit_the_brokers_limit_at_least_in_part(share: float) -> None:
    chance = random.Random(share)
    runs = [(offset, offset + 1) for offset in range(1, 200_000, 2) if chance.random() < share]
    text = finished.encode(0, runs)
    assert 0 < len(text) <= 4096
    kept = finished.decode(0, text)
    assert kept and kept == runs[: len(kept)]


def test_a_long_regular_pattern_fits_whole() -> None:
    runs = [(offset, offset + 9) for offset in range(1, 100_000, 10)]
    assert finished.decode(0, finished.encode(0, runs)) == runs


@given(st.text(max_size=200))
def test_anothers_metadata_tells_nothing(text: str) -> None:
    assert finished.decode(7, text) == []
    assert finished.decode(7, "penstock:1:7:" + text) == []


@given(done_beyond().filter(lambda case: bool(case[1])), st.data())
def test_damage_tells_nothing(case: tuple[int, Ranges], data: st.DataObject) -> None:
    offset, runs = case
    text = finished.encode(offset, runs, max_chars=1 << 20)
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(codec="ascii").filter(lambda c: c != text[place]))
    # In the last group of base 85 some characters stand for the same bytes: then it is no damage.
    assert finished.decode(offset, text[:place] + other + text[place + 1 :]) in ([], runs)
    assert finished.decode(offset, text[:place]) == []


def test_it_counts_for_its_own_offset_only() -> None:
    text = finished.encode(10, [(12, 15)])
    assert finished.decode(10, text) == [(12, 15)]
    assert finished.decode(11, text) == []
    moved = text.replace(":10:", ":11:")
    assert finished.decode(11, moved) == [], "the checksum covers the offset"


def _crafted(offset: int, kind: int, body: bytes) -> str:
    payload = bytes((kind,)) + body
    checked = zlib.crc32(payload, offset).to_bytes(4, "big") + payload
    return f"penstock:1:{offset}:{base64.b85encode(checked).decode()}"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (2, zlib.compress(b"\x01" * (64 << 20), 9)),  # inflates to 64 MiB
        (0, b"\xff" * 100),
        (0, b"\x80"),
        (0, b"\x00\x01"),  # a run of none
        (0, b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f" * 2),  # beyond the last offset there is
        (3, b"no deflate stream"),
        (2, zlib.compress(b"\x01\x01")[:-2]),
    ],
)
def test_hostile_text_tells_nothing(kind: int, body: bytes) -> None:
    assert finished.decode(5, _crafted(5, kind, body)) == []
