"""What `partition.assignment.strategy` may name, and assignors of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from penstock.config import resolve
from penstock.errors import ConfigError
from penstock.group.assignors import (
    Assignor,
    CooperativeStickyAssignor,
    RangeAssignor,
    RebalanceProtocol,
    assignors_for,
    common_protocol,
)
from penstock.group.protocol import MemberSubscription
from penstock.types import TopicPartition

JAVAS = "org.apache.kafka.clients.consumer."


class FirstTakesAll(Assignor):
    name = "first-takes-all"

    def assign(
        self,
        members: Mapping[str, MemberSubscription],
        partition_counts: Mapping[str, int],
        partition_racks: Mapping[TopicPartition, frozenset[str]] = {},
    ) -> dict[str, list[TopicPartition]]:
        every = [TopicPartition(t, n) for t, count in partition_counts.items() for n in range(count)]
        return {member: every if member == min(members) else [] for member in members}


class Cooperative(FirstTakesAll):
    name = "cooperative"
    rebalance_protocols = (RebalanceProtocol.COOPERATIVE,)


def strategy(value: Any) -> tuple[Assignor, ...]:
    """From what a user writes to assignors."""
    config = resolve("consumer", {"bootstrap.servers": "h:1", "partition.assignment.strategy": value})
    return assignors_for(config["partition.assignment.strategy"])


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("range", ["range"]),
        ("sticky, Cooperative-Sticky", ["sticky", "cooperative-sticky"]),
        (["roundrobin", "range", "roundrobin"], ["roundrobin", "range"]),
        ([JAVAS + "RangeAssignor", JAVAS + "RoundRobinAssignor"], ["range", "roundrobin"]),
        (f"{JAVAS}StickyAssignor,{JAVAS}CooperativeStickyAssignor", ["sticky", "cooperative-sticky"]),
        ([JAVAS + "RangeAssignor", "range"], ["range"]),
        (FirstTakesAll, ["first-takes-all"]),
        (FirstTakesAll(), ["first-takes-all"]),
        ([FirstTakesAll, "range", Cooperative()], ["first-takes-all", "range", "cooperative"]),
        ([FirstTakesAll, FirstTakesAll], ["first-takes-all"]),
    ],
)
def test_what_may_be_named(value: Any, names: list[str]) -> None:
    assert [assignor.name for assignor in strategy(value)] == names


def test_the_default_is_kafkas() -> None:
    config = resolve("consumer", {"bootstrap.servers": "h:1"})
    assert [a.name for a in assignors_for(config["partition.assignment.strategy"])] == [
        "range",
        "cooperative-sticky",
    ]


def test_java_names_without_the_configuration() -> None:
    assert [a.name for a in assignors_for([JAVAS + "StickyAssignor", "range"])] == ["sticky", "range"]


def test_an_instance_is_used_as_it_is_and_a_class_makes_one_for_each_consumer() -> None:
    mine = FirstTakesAll()
    assert strategy([mine]) == (mine,)
    assert strategy(FirstTakesAll)[0] is not strategy(FirstTakesAll)[0]


class NotAnAssignor:
    name = "range-like"

    def assign(self) -> None: ...


class Nameless:
    def assign(self) -> None: ...


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("zone", "is not one of range, roundrobin, sticky, cooperative-sticky"),
        ([7], "the entry 7 is of type int"),
        (7, "a list of assignors' names or Assignors is wanted"),
        (b"range", "of type bytes"),
        ([Nameless], "is of type type"),
        ([NotAnAssignor], "is no assignor"),
        ([], "give at least one"),
        ([FirstTakesAll(), FirstTakesAll()], "two assignors named 'first-takes-all'"),
        ([type("Range", (FirstTakesAll,), {"name": "range"}), "range"], "two assignors named 'range'"),
    ],
)
def test_what_may_not(value: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        strategy(value)
    assert "partition.assignment.strategy" in str(caught.value)
    assert said in str(caught.value)


def test_two_of_one_name_without_the_configuration() -> None:
    with pytest.raises(ConfigError, match="two assignors named 'range'"):
        assignors_for(["range", RangeAssignor])


# ------------------------------------------------------------ the protocol that all support


@pytest.mark.parametrize(
    ("entries", "protocol"),
    [
        (["range"], RebalanceProtocol.EAGER),
        (["cooperative-sticky"], RebalanceProtocol.COOPERATIVE),
        (["range", "cooperative-sticky"], RebalanceProtocol.EAGER),
        (["cooperative-sticky", Cooperative], RebalanceProtocol.COOPERATIVE),
        (["sticky", FirstTakesAll], RebalanceProtocol.EAGER),
    ],
)
def test_the_highest_protocol_that_all_support(entries: list[Any], protocol: RebalanceProtocol) -> None:
    assert common_protocol(assignors_for(entries)) is protocol


def test_assignors_without_a_common_protocol() -> None:
    with pytest.raises(ConfigError, match="range: EAGER; cooperative: COOPERATIVE"):
        common_protocol(assignors_for(["range", Cooperative]))


def test_an_assignor_of_ones_own_needs_to_assign() -> None:
    with pytest.raises(TypeError):
        assignors_for([type("Empty", (Assignor,), {"name": "empty"})])
    assert FirstTakesAll().user_data(("t",)) is None
    FirstTakesAll().on_assignment((), 1)
    assert CooperativeStickyAssignor().rebalance_protocols[0] is RebalanceProtocol.COOPERATIVE
