"""The bytes of subscriptions and assignments, beside those of Kafka's own Java classes."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ProtocolError
from penstock.group.protocol import (
    MemberSubscription,
    decode_assignment,
    decode_subscription,
    encode_assignment,
    encode_subscription,
)
from penstock.types import TopicPartition

JAVA = json.loads((Path(__file__).parents[2] / "golden" / "java_group.json").read_text(encoding="utf-8"))
TOPIC = st.text("abcXYZ019._-", min_size=1, max_size=12)
PARTITIONS = st.lists(st.builds(TopicPartition, TOPIC, st.integers(0, 2**31 - 1)), unique=True, max_size=8)


def of(pairs: list[list[Any]]) -> tuple[TopicPartition, ...]:
    return tuple(TopicPartition(topic, partition) for topic, partition in pairs)


def data(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


@pytest.mark.parametrize(
    "case", JAVA["subscriptions"], ids=lambda case: f"v{case['version']}-{len(case['topics'])}"
)
def test_a_subscription_as_java_writes_it(case: dict[str, Any]) -> None:
    version, raw = case["version"], bytes.fromhex(case["bytes"])
    wanted = MemberSubscription(
        topics=tuple(case["topics"]),
        owned_partitions=of(case["owned"]) if version >= 1 else (),
        user_data=data(case["user_data"]),
        generation_id=case["generation"] if version >= 2 else -1,
        rack_id=case["rack"] if version >= 3 else None,
    )
    assert decode_subscription(raw) == wanted
    if version == 3:
        assert encode_subscription(wanted) == raw


@pytest.mark.parametrize(
    "case", JAVA["given"], ids=lambda case: f"v{case['version']}-{len(case['partitions'])}"
)
def test_an_assignment_as_java_writes_it(case: dict[str, Any]) -> None:
    raw = bytes.fromhex(case["bytes"])
    assert decode_assignment(raw) == of(case["partitions"])
    if case["version"] == 3:
        assert encode_assignment(of(case["partitions"]), data(case["user_data"])) == raw


@given(
    st.lists(TOPIC, unique=True),
    PARTITIONS,
    st.none() | st.binary(max_size=20),
    st.integers(-1, 9),
    st.none() | TOPIC,
)
def test_a_subscription_comes_back(
    topics: list[str], owned: list[TopicPartition], user_data: bytes | None, generation: int, rack: str | None
) -> None:
    there = MemberSubscription(
        tuple(sorted(topics)), tuple(sorted(owned)), user_data, generation, rack, "instance"
    )
    back = decode_subscription(encode_subscription(there), "instance")
    assert back == there


@given(PARTITIONS)
def test_an_assignment_comes_back(partitions: list[TopicPartition]) -> None:
    assert sorted(decode_assignment(encode_assignment(partitions))) == sorted(partitions)


@given(st.integers(4, 32_767), st.binary(max_size=20))
def test_a_newer_version_is_read_as_far_as_it_is_known(version: int, more: bytes) -> None:
    known = MemberSubscription(("t",), (TopicPartition("t", 1),), b"x", 3, "rack")
    newer = struct.pack(">h", version) + encode_subscription(known)[2:] + more
    assert decode_subscription(newer) == known
    assigned = struct.pack(">h", version) + encode_assignment([TopicPartition("t", 1)])[2:] + more
    assert decode_assignment(assigned) == (TopicPartition("t", 1),)


def test_no_assignment_at_all_is_an_empty_one() -> None:
    assert decode_assignment(b"") == ()


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    for decode in (decode_subscription, decode_assignment):
        try:
            decode(raw)  # type: ignore[operator]
        except ProtocolError as error:
            assert "cannot be read" in str(error)


@pytest.mark.parametrize("raw", [b"", b"\0", b"\xff\xff", b"\0\0", b"\0\0\0\0\0\1", b"\0\0\x7f\xff\xff\xff"])
def test_a_subscription_that_makes_no_sense(raw: bytes) -> None:
    with pytest.raises(
        ProtocolError, match=f"consumer protocol subscription of {len(raw)} bytes cannot be read"
    ):
        decode_subscription(raw)
