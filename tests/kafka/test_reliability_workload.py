"""No record is lost, repeated under another offset, or skipped, whatever dies or is cut off: one workload, several judges.

The workload runs once per entry of RUNS; each test below is a checker over what it left behind.
PENSTOCK_SOAK_SECONDS=3600 has test_soak go on for that long, with the faults in any order; -s shows how it goes.
"""

from __future__ import annotations

import random
import time
import uuid
from dataclasses import dataclass

import pytest

from tests.support import history as h
from tests.support.kafka import RealKafka
from tests.support.members import Members
from tests.support.workload import (
    CONSUMER_PROTOCOL,
    PARTITIONS,
    SOAK_SECONDS,
    Feed,
    Workload,
    all_stored_commits,
)

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(SOAK_SECONDS + 400)]

ONE_BROKER = ["consumer_killed", "coordinator_cut", "consumer_stopped", "connections_reset", "leader_killed"]
THREE_BROKERS = [
    "leader_killed",
    "consumer_killed",
    "coordinator_cut",
    "coordinator_killed",
    "leader_cut",
    "consumer_stopped",
    "connections_reset",
]
RUNS = {
    "one-broker": (1, "range", ONE_BROKER),
    "three-brokers": (3, "cooperative-sticky", THREE_BROKERS),
    "consumer-protocol": (
        3,
        CONSUMER_PROTOCOL,
        ["consumer_killed", "coordinator_killed", "coordinator_cut", "consumer_stopped"],
    ),
}
"""Brokers, who assigns, and the faults in their order: eager rebalancing, cooperative (KIP-429), by the coordinator (KIP-848)."""


@dataclass(frozen=True)
class Run:
    """What a workload left behind. `late`: why not all was seen in time, "" if it was."""

    history: h.History
    stored: list[tuple[h.Place, int]]
    faults: list[str]
    assigned: str
    late: str


def run_once(kafka: RealKafka, faults: list[str], assignor: str) -> Run:
    """Producers, three members and a reader of all, the faults one after another, and then calm."""
    name = f"workload-{len(kafka.nodes)}-{uuid.uuid4().hex[:8]}"
    durable = {"min.insync.replicas": 2} if len(kafka.nodes) == 3 else {}
    kafka.create_topic(name, PARTITIONS, config=durable)
    with (
        kafka.open_proxies(),
        Members(kafka.proxied_bootstrap_servers, name) as members,
        Feed(kafka, name) as feed,
    ):
        workload = Workload(kafka, name, name, members, feed, assignor)
        workload.begin(3)
        for fault in faults:
            workload.fault(fault)
        history = workload.finish()
        assert feed.refused == [], "the producers were to wait"
        return Run(history, all_stored_commits(kafka, name, name), faults, workload.whole.name, workload.late)


@pytest.fixture(scope="module", params=RUNS)
def run(request: pytest.FixtureRequest) -> Run:
    brokers, assignor, faults = RUNS[request.param]
    kafka = request.getfixturevalue("kafka_session" if brokers == 1 else "kafka3_session")
    return run_once(kafka, faults, assignor)


def group_only(run: Run) -> h.History:
    """Without the reader that reads all: what the group itself saw."""
    events = {name: events for name, events in run.history.events.items() if name != run.assigned}
    return h.History(run.history.acknowledged, events)


def test_01_no_loss(run: Run) -> None:
    assert len(run.history.acknowledged) > 1_000
    assert h.no_loss(group_only(run)) == [], run.faults


def test_02_unseen_to_zero(run: Run) -> None:
    assert run.late == "" and h.unseen_is_zero(group_only(run)) == []


def test_03_offset_value_agreement(run: Run) -> None:
    assert h.offsets_agree(run.history) == []


def test_04_assign_contiguous(run: Run) -> None:
    """Under assign() from the first record to the last, over every fault; in a group within each ownership."""
    alone = h.History(run.history.acknowledged, {run.assigned: run.history.events[run.assigned]})
    assert h.contiguous(alone) == []
    assert {read.place for read in alone.reads() if read.offset == 0} == {
        read.place for read in alone.reads()
    }
    assert h.no_loss(alone) == []
    assert h.contiguous(run.history) == []


def test_05_subscribe_resume(run: Run) -> None:
    assert h.resumes_at_committed(group_only(run)) == []
    assert h.commits_cover_only_what_was_read(run.history) == []


def test_09_commit_monotonic(run: Run) -> None:
    """In the order in which the coordinator stored them: also a member that woke after its session may not undo another's."""
    assert len(run.stored) > 50
    assert h.never_goes_back(run.stored) == []
    last: dict[h.Place, int] = {}
    for read in run.history.reads():
        last[read.place] = max(read.offset, last.get(read.place, -1))
    assert dict(run.stored) == {place: offset + 1 for place, offset in last.items()}, (
        "the last commit is the end"
    )


def test_13_poll_vs_revoke(run: Run) -> None:
    """After the listener has returned from a revocation nothing of those partitions is returned (KAFKA-20332)."""
    assert h.only_while_owned(run.history) == []


JUDGES = (
    test_01_no_loss,
    test_02_unseen_to_zero,
    test_03_offset_value_agreement,
    test_04_assign_contiguous,
    test_05_subscribe_resume,
    test_09_commit_monotonic,
    test_13_poll_vs_revoke,
)


@pytest.mark.skipif(not SOAK_SECONDS, reason="set PENSTOCK_SOAK_SECONDS to how long it is to run")
def test_soak(kafka3: RealKafka) -> None:
    """The same on three brokers, again and again, with other orders of faults and each assignor."""
    ends = time.monotonic() + SOAK_SECONDS
    turn = 0
    while time.monotonic() < ends:
        faults = random.choices(THREE_BROKERS, k=8)
        assignor = random.choice(["range", "roundrobin", "sticky", "cooperative-sticky", CONSUMER_PROTOCOL])
        print(
            f"{ends - time.monotonic():7.0f} s left  turn {turn}: {assignor}, {', '.join(faults)}", flush=True
        )
        found = run_once(kafka3, faults, assignor)
        for judge in JUDGES:
            judge(found)
        turn += 1
    assert turn > 0
