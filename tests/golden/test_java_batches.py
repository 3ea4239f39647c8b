"""What Kafka's own Java classes wrote, we read as they do. `java_batches/` comes from capture_java.py."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from penstock import _native
from penstock.errors import CorruptRecordError
from tests.golden.capture_java import BATCHES, capture

EXPECTED: dict[str, list[dict[str, Any]]] = json.loads((BATCHES / "expected.json").read_text("utf-8"))
VECTORS: list[dict[str, Any]] = json.loads((BATCHES / "murmur2.json").read_text("utf-8"))
SHORT_BYTES = 64

Seen = tuple[int, int, int, int, str | None, str | None, list[tuple[str, str | None]]]


def shown(content: bytes | None) -> str | None:
    """Bytes as expected.json has them: hexadecimal, or size and SHA-256 of what is long."""
    if content is None or len(content) <= SHORT_BYTES:
        return None if content is None else content.hex()
    return f"{len(content)}:{hashlib.sha256(content).hexdigest()}"


def expected(case: str) -> list[Seen]:
    """The records that a consumer shall see: those of control batches are none of them."""
    return [
        (
            offset,
            timestamp,
            batch["timestamp_type"],
            batch["leader_epoch"],
            key,
            value,
            [(name, content) for name, content in headers],
        )
        for batch in EXPECTED[case]
        if not batch["control"]
        for offset, timestamp, key, value, headers in batch["records"]
    ]


def decoded(data: bytes, offset: int = 0) -> list[Seen]:
    return [
        (
            record.offset,
            record.timestamp,
            int(record.timestamp_type),
            record.leader_epoch,
            shown(record.raw_key),
            shown(record.raw_value),
            [(name, shown(content)) for name, content in record.headers],
        )
        for record in _native.decode_batches(data, topic="java", partition=3, offset=offset)
    ]


def stored(case: str) -> bytes:
    return (BATCHES / f"{case}.bin").read_bytes()


@pytest.mark.parametrize("case", EXPECTED)
def test_records_are_those_that_java_reads(case: str) -> None:
    assert decoded(stored(case)) == expected(case)


@pytest.mark.parametrize("case", EXPECTED)
def test_reading_from_an_offset_leaves_out_what_is_before(case: str) -> None:
    everything = expected(case)
    for start in {everything[0][0], everything[len(everything) // 2][0], everything[-1][0] + 1}:
        assert decoded(stored(case), start) == [one for one in everything if one[0] >= start]


@pytest.mark.parametrize("case", ["mixed", "v2-transactions", "v0-none"])
def test_a_batch_that_is_cut_off_is_left_for_the_next_fetch(case: str) -> None:
    last_batch = EXPECTED[case][-1]
    before = [one for batch in EXPECTED[case][:-1] if not batch["control"] for one in batch["records"]]
    assert last_batch["records"] or last_batch["control"]
    assert [one[0] for one in decoded(stored(case)[:-1])] == [one[0] for one in before]


# Those that end in a record: what a control batch contains is of no interest to a consumer.
ENDING_IN_A_RECORD = [case for case, batches in EXPECTED.items() if not batches[-1]["control"]]


@pytest.mark.parametrize("case", ENDING_IN_A_RECORD)
def test_a_flipped_bit_is_noticed(case: str) -> None:
    data = bytearray(stored(case))
    data[-1] ^= 1
    with pytest.raises(CorruptRecordError) as caught:
        decoded(bytes(data))
    assert caught.value.topic_partition == ("java", 3)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["key"] or "empty")
def test_partitions_are_those_of_javas_partitioner(vector: dict[str, Any]) -> None:
    key = bytes.fromhex(vector["key"])
    found = {count: _native.murmur2_partition(key, int(count)) for count in vector["partitions"]}
    assert found == vector["partitions"]


@pytest.mark.kafka
def test_java_still_reads_the_same_in_what_it_writes(tmp_path: Path) -> None:
    capture(tmp_path)
    for name in ("expected.json", "murmur2.json"):
        assert (tmp_path / name).read_text("utf-8") == (BATCHES / name).read_text("utf-8")
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in BATCHES.iterdir()}
