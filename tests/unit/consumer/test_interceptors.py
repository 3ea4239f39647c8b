"""The chain of interceptors: order, what failures do, how they are made."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pytest

from penstock.consumer.interceptors import Interceptors
from penstock.errors import ConfigError
from penstock.types import OffsetAndMetadata, TopicPartition

OFFSETS = {TopicPartition("orders", 0): OffsetAndMetadata(5)}


class Adds:
    """Adds its mark to the records, and keeps what it is told."""

    made: list[Adds] = []

    def __init__(self, mark: str = "made") -> None:
        self.mark = mark
        self.config: Mapping[str, Any] = {}
        self.committed: list[Mapping[TopicPartition, OffsetAndMetadata]] = []
        self.closed = 0
        Adds.made.append(self)

    def configure(self, config: Mapping[str, Any]) -> None:
        self.config = config

    def on_consume(self, records: list[str]) -> list[str]:
        return [*records, self.mark]

    def on_commit(self, offsets: dict[TopicPartition, OffsetAndMetadata]) -> None:
        self.committed.append(dict(offsets))
        offsets.clear()

    def close(self) -> None:
        self.closed += 1


class Fails:
    def on_consume(self, records: object) -> object:
        raise RuntimeError("no")

    on_commit = on_consume

    def close(self) -> None:
        raise RuntimeError("no")


class OnlyCommits:
    def __init__(self) -> None:
        self.seen: list[object] = []

    def on_commit(self, offsets: object) -> None:
        self.seen.append(offsets)


def test_none_are_false_and_change_nothing() -> None:
    chain = Interceptors((), {})
    records = object()
    assert not chain
    assert chain.on_consume(records) is records
    chain.on_commit(OFFSETS)
    chain.close()


def test_each_gets_what_the_one_before_returned() -> None:
    chain = Interceptors([Adds("first"), OnlyCommits(), Adds("second")], {})
    assert chain
    assert chain.on_consume([]) == ["first", "second"]


def test_what_one_raises_is_logged_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    first, last = Adds("first"), Adds("last")
    chain = Interceptors([first, Fails(), last], {})
    with caplog.at_level(logging.WARNING, "penstock"):
        assert chain.on_consume([]) == ["first", "last"]
        chain.on_commit(OFFSETS)
        chain.close()
    assert [record.message.split(" of ")[0] for record in caplog.records] == [
        "on_consume()",
        "on_commit()",
        "close()",
    ]
    assert first.closed == last.closed == 1


def test_each_has_offsets_of_its_own() -> None:
    spoils, keeps = Adds(), Adds()
    Interceptors([spoils, keeps], {}).on_commit(OFFSETS)
    assert spoils.committed == keeps.committed == [OFFSETS]
    assert OFFSETS, "the caller's own is not touched either"


def test_instances_classes_and_names_are_made_and_configured() -> None:
    Adds.made.clear()
    instance = Adds("given")
    chain = Interceptors([instance, Adds, f"{__name__}:Adds"], {"group.id": "g"})
    assert len(Adds.made) == 3
    assert all(made.config == {"group.id": "g"} for made in Adds.made)
    assert chain.on_consume([]) == ["given", "made", "made"]


def test_it_closes_once() -> None:
    one = Adds()
    chain = Interceptors([one], {})
    chain.close()
    chain.close()
    assert one.closed == 1
    assert not chain
    assert chain.on_consume([]) == [], "after close() it is called no more"


class NeedsAnArgument:
    def __init__(self, argument: int) -> None: ...


class CannotBeConfigured:
    def configure(self, config: object) -> None:
        raise ValueError("no such topic")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("org.apache.kafka.Interceptor", "names no class"),
        ("no.such.module:Name", "cannot be imported"),
        ("json:NoSuchName", "cannot be imported"),
        (NeedsAnArgument, "cannot be made without arguments"),
        (object(), "has none of on_consume"),
        (CannotBeConfigured, "no such topic"),
    ],
)
def test_what_is_no_interceptor_is_refused_and_the_others_closed(entry: object, said: str) -> None:
    before = Adds()
    with pytest.raises(ConfigError, match=said):
        Interceptors([before, entry], {})
    assert before.closed == 1
