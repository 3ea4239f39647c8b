"""A living group changes its protocol, member by member, while records flow: to KIP-848's and back, with Java's members among ours.

tests/kafka/test_mixed_groups.py lets such a group come to rest after every step; here nobody waits for it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support import history as h
from tests.support.kafka import RealKafka
from tests.support.members import Member, Members
from tests.support.workload import Feed, all_stored_commits

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]
PARTITIONS = 6


def config_of(protocol: str) -> dict[str, object]:
    if protocol == "classic-eager":
        return {"partition.assignment.strategy": "range", "heartbeat.interval.ms": 300}
    if protocol == "classic-cooperative":
        return {"partition.assignment.strategy": "cooperative-sticky", "heartbeat.interval.ms": 300}
    return {"group.protocol": protocol}


class Rolling:
    """A group whose members are replaced one by one."""

    def __init__(self, kafka: RealKafka, members: Members, feed: Feed, group: str) -> None:
        self.members = members
        self.group = group
        self.kafka = kafka
        self.now: list[Member] = []
        self._feed = feed
        self._places = [h.Place(members.topic, number) for number in range(PARTITIONS)]

    def join(self, kind: str, protocol: str) -> Member:
        member = self.members.start(kind, self.group, config=config_of(protocol))
        self.now.append(member)
        return member

    def shared_out(self) -> bool:
        owned = {member.name: set(member.owned) for member in self.now}
        return h.one_owner_each(owned, self._places) == [] and all(owned.values())

    def settle(self, when: str) -> None:
        self.members.until(self.shared_out, when)

    def roll(self, protocol: str) -> None:
        """Each leaves and comes back with the other protocol; the next goes once this one has a share, with the group still moving."""
        for old in list(self.now):
            self.now.remove(old)
            old.stop()
            new = self.join(old.kind, protocol)
            self.members.until(lambda n=new: n.owned and n.reads, f"{new.name} has a share by {protocol}")

    def go_on(self, when: str) -> None:
        """Every member reads on."""
        before = {member.name: member.reads for member in self.now}
        self.members.until(lambda: all(m.reads > before[m.name] + 50 for m in self.now), f"reading {when}")

    def finish(self) -> h.History:
        self._feed.stop()
        self.members.until(lambda: not h.unseen(self.history()), "all is read")
        for member in self.now:
            member.stop()
        return self.history()

    def history(self) -> h.History:
        return h.History(list(self._feed.acknowledged), self.members.events())


@pytest.mark.parametrize(
    ("kinds", "classic", "consumer"),
    [
        (("penstock", "java", "penstock"), "classic-eager", "consumer"),
        (("penstock", "penstock", "java"), "classic-cooperative", "consumer"),
        (("penstock", "penstock", "penstock"), "classic-eager", "auto"),
    ],
    ids=["eager", "cooperative", "auto"],
)
def test_21_migration(
    kafka: RealKafka,
    topic: str,
    unique: Callable[[str], str],
    kinds: tuple[str, ...],
    classic: str,
    consumer: str,
) -> None:
    """There and back: nothing is lost, nothing is returned to two at once, no commit is undone, and in the end each partition has one
    owner."""
    kafka.create_topic(topic, PARTITIONS)
    group = unique("group")
    kafka.configure_group(group, consumer_heartbeat_interval_ms=300)
    with Members(kafka.bootstrap_servers, topic) as members, Feed(kafka, topic) as feed:
        rolling = Rolling(kafka, members, feed, group)
        for kind in kinds:
            rolling.join(kind, classic)
        rolling.settle("classic")
        rolling.go_on("before")
        rolling.roll(consumer)
        rolling.settle("by the consumer protocol")
        assert group_type(kafka, group) == "consumer"
        rolling.go_on("by the consumer protocol")
        rolling.roll(classic)
        rolling.settle("classic again")
        assert group_type(kafka, group) == "classic"
        rolling.go_on("after")
        history = rolling.finish()
    assert [(member.name, member.errors) for member in members.all if member.errors] == []
    assert h.no_loss(history) == [] and h.unseen_is_zero(history) == []
    assert h.offsets_agree(history) == []
    assert h.contiguous(history) == [] and h.only_while_owned(history) == []
    assert h.owned_by_one_at_a_time(history) == []
    assert h.resumes_at_committed(history) == []
    assert h.never_goes_back(all_stored_commits(kafka, group, topic)) == []


def group_type(kafka: RealKafka, group: str) -> str:
    """By the broker's word. Source: ListGroups version 5 (KIP-848)."""
    listed = kafka.admin.list_consumer_groups(request_timeout=30).result()
    return str(next(found.type.name for found in listed.valid if found.group_id == group)).lower()
