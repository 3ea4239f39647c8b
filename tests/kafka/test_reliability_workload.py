"""No record is lost, repeated under another offset, or skipped, whatever dies or is cut off: one workload, several judges.

The workload runs once per cluster, one broker and three; each test below is a checker over what it left behind.
PENSTOCK_SOAK_SECONDS=3600 makes it go on with random faults for that long.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support import history as h
from tests.support.kafka import RealKafka
from tests.support.members import Members
from tests.support.workload import SOAK_SECONDS, Feed, Workload, run_faults, stored_commits

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(SOAK_SECONDS + 400)]

FAULTS = {
    1: ["consumer_killed", "coordinator_cut", "consumer_stopped", "connections_reset", "leader_killed"],
    3: [
        "leader_killed",
        "consumer_killed",
        "coordinator_cut",
        "coordinator_killed",
        "leader_cut",
        "consumer_stopped",
        "connections_reset",
    ],
}

ASSIGNORS = {1: "range", 3: "cooperative-sticky"}
"""Eager rebalancing on the one cluster, cooperative on the other (KIP-429)."""


@dataclass(frozen=True)
class Run:
    """What a workload left behind. `late`: why not all was seen in time, "" if it was."""

    history: h.History
    stored: list[tuple[h.Place, int]]
    faults: list[str]
    assigned: str
    late: str


@pytest.fixture(scope="module", params=[1, 3], ids=["one-broker", "three-brokers"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    brokers = request.param
    kafka: RealKafka = request.getfixturevalue("kafka_session" if brokers == 1 else "kafka3_session")
    name = f"workload-{brokers}-{uuid.uuid4().hex[:8]}"
    durable = {"min.insync.replicas": 2} if brokers == 3 else {}
    kafka.create_topic(name, 6, config=durable)
    with (
        kafka.open_proxies(),
        Members(kafka.proxied_bootstrap_servers, name) as members,
        Feed(kafka, name) as feed,
    ):
        workload = Workload(kafka, name, name, members, feed, ASSIGNORS[brokers])
        workload.begin(3)
        ends = time.monotonic() + SOAK_SECONDS
        faults = list(run_faults(workload, FAULTS[brokers], lambda: time.monotonic() < ends))
        history = workload.finish()
        late = "; ".join(text for text in workload.done if text not in faults)
        assert feed.refused == [], "the producers were to wait"
        yield Run(history, stored_commits(kafka, name), faults, workload.whole.name, late)


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
    assert h.no_loss(alone) == []
    assert h.contiguous(run.history) == []


def test_05_subscribe_resume(run: Run) -> None:
    assert h.resumes_at_committed(group_only(run)) == []
    assert h.commits_cover_only_what_was_read(run.history) == []


def test_09_commit_monotonic(run: Run) -> None:
    """In the order in which the coordinator stored them: also a member that woke after its session may not undo another's."""
    assert len(run.stored) > 50
    assert h.never_goes_back(run.stored) == []
    ends = dict(run.stored)
    assert ends == {
        place: 1 + max(ack.offset for ack in run.history.acknowledged if ack.place == place) for place in ends
    }, "the last commit is the end"


def test_13_poll_vs_revoke(run: Run) -> None:
    """After the listener has returned from a revocation nothing of those partitions is returned (KAFKA-20332)."""
    assert h.only_while_owned(run.history) == []
