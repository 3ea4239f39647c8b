"""C code that holds the GIL for longer than a session costs no membership: heartbeats are a native thread's.

PENSTOCK_SOAK_SECONDS=1 has it held for 60 seconds, with the session of 45 seconds that is the default.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.kafka import RealKafka
from tests.support.polling import PROTOCOLS
from tests.support.stepwise import Actor
from tests.support.workload import SOAK_SECONDS

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]
WAIT_S = 60.0
SESSION_MS, HOG_S = (45_000, 60) if SOAK_SECONDS else (6_000, 15)
PARTITIONS = 6


class Group:
    """Members of one group, each in a process of its own."""

    def __init__(self, kafka: RealKafka, topic: str, name: str, protocol: str) -> None:
        self.members: list[Actor] = []
        self._topic = topic
        self._config: dict[str, Any] = {"bootstrap.servers": kafka.bootstrap_servers, "group.id": name}
        if protocol == "consumer":
            kafka.configure_group(
                name, consumer_session_timeout_ms=SESSION_MS, consumer_heartbeat_interval_ms=500
            )
            self._config["group.protocol"] = "consumer"
        else:
            self._config |= {"session.timeout.ms": SESSION_MS, "heartbeat.interval.ms": 500}
            self._config["partition.assignment.strategy"] = protocol

    def join(self) -> Actor:
        self.members.append(Actor(self._topic, self._config))
        return self.members[-1]

    def settle(self) -> None:
        """Every partition has one owner, and each member its share."""
        share = PARTITIONS // len(self.members)
        deadline = time.monotonic() + WAIT_S
        while True:
            owned = [member.ask("owned") for member in self.members]
            everything = sorted(number for numbers in owned for number in numbers)
            if everything == list(range(PARTITIONS)) and all(len(numbers) == share for numbers in owned):
                return
            assert time.monotonic() < deadline, f"the group does not settle: {owned}"
            time.sleep(0.05)

    def end(self) -> None:
        for member in self.members:
            member.end()


@pytest.fixture
def group_of(
    kafka: RealKafka, topic: str, unique: Callable[[str], str]
) -> Iterator[Callable[[str, str], Group]]:
    kafka.create_topic(topic, PARTITIONS)
    with contextlib.ExitStack() as stack:

        def make(protocol: str, which: str) -> Group:
            group = Group(kafka, topic, unique(which), protocol)
            stack.callback(group.end)
            return group

        yield make


@pytest.mark.parametrize("protocol", PROTOCOLS if SOAK_SECONDS else ["cooperative-sticky", "consumer"])
def test_17_gil_hog(group_of: Callable[[str, str], Group], protocol: str) -> None:
    """Two groups at once, one member of each holds its GIL. In one nothing else happens, and nothing changes: neither member id nor
    generation, nor does anyone hear of a rebalance. The other gains a member meanwhile, and goes on with all three."""
    quiet, grows = group_of(protocol, "quiet"), group_of(protocol, "grows")
    for group in (quiet, grows):
        group.join(), group.join()
    for group in (quiet, grows):
        group.settle()
    members = [member.ask("member") for member in quiet.members]
    grown = grows.members[0].ask("member")
    for member in [*quiet.members, *grows.members]:
        member.ask("calls")

    began = time.monotonic()
    for group in (quiet, grows):
        group.members[0].tell("hold_the_gil", for_s=HOG_S)
    newcomer = grows.join()
    while time.monotonic() < began + SESSION_MS / 1000:
        assert len(newcomer.ask("owned")) <= PARTITIONS // 2, "it has what is still the other's"
        time.sleep(0.1)
    for group in (quiet, grows):
        group.members[0].hear()
    assert time.monotonic() - began >= HOG_S, "the GIL was not held for as long as that"

    assert [member.ask("member") for member in quiet.members] == members
    assert [member.ask("calls") for member in quiet.members] == [[], []]
    grows.settle()
    now = grows.members[0].ask("member")
    assert now[0] == grown[0] and now[1] > grown[1], "the same member in a later generation"
    assert "lost" not in grows.members[0].ask("calls")
    for group in (quiet, grows):
        for member in group.members:
            member.close()
