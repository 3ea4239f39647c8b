"""The same requests to Apache Kafka and to the embedded broker, the same answers: KIP-848 step by step.

What Kafka leaves to chance, or to another moment (which partitions, member ids it makes, when new topics are noticed), is not
compared: assignments count by their size, and every step is asked for only when its turn has come.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from penstock.devbroker import DevBroker
from tests.devbroker.consumer_group_steps import REBALANCE_MS, Steps
from tests.devbroker.raw import WAIT_S

if TYPE_CHECKING:
    from tests.support.kafka import RealKafka

pytestmark = pytest.mark.kafka


# ---------------------------------------------------------------- what is asked
def sharing(steps: Steps) -> None:
    steps.look()
    steps.join("a")
    steps.look()
    steps.beat("a")
    steps.join("b")
    steps.look()
    everything = steps.has["a"]
    steps.beat("a")
    steps.look()
    steps.beat("b")
    steps.beat("a", 2, everything)
    steps.beat("a", 2, steps.has["a"])
    steps.beat("b")
    steps.look()
    steps.beat("a", 2, steps.has["a"])
    steps.beat("a", 2)
    steps.beat("a", 2, everything)
    steps.beat("a", 9)
    steps.beat("x", 3)
    steps.beat("a", 3, steps.has["a"], subscribed_topic_names=(steps.topic,), rebalance_timeout=REBALANCE_MS)
    steps.delete()
    steps.beat("a", -1)
    steps.look()
    steps.beat("b")
    steps.beat("b", -1)
    steps.look()
    steps.delete()
    steps.beat("b", -1)


def refusals(steps: Steps) -> None:
    steps.join("a", server_assignor="sticky")
    steps.join("a", rebalance_timeout=-1)
    steps.join("a", names=None)
    steps.join("a", instance_id="")
    steps.join("a", rack_id="")
    steps.join("")
    steps.beat("a", 0, None, subscribed_topic_names=(steps.topic,), rebalance_timeout=REBALANCE_MS)
    steps.beat("a", 0, frozenset({(steps.topic_id, 0)}), subscribed_topic_names=(steps.topic,), rebalance_timeout=1)  # fmt: skip
    steps.beat("", 2)
    steps.beat("a", -2)
    steps.beat("a", -3)
    steps.beat("a", -1)
    steps.join("a", names=None, subscribed_topic_regex="(")
    steps.join("a", names=None, subscribed_topic_regex="(?=x)")
    steps.join("a", names=())
    steps.beat("a", 5)


def offsets(steps: Steps) -> None:
    steps.commit("", -1)
    steps.join("a")
    steps.commit("a", 2)
    steps.commit("a", 0)
    steps.commit("a", 3)
    steps.commit("x", 2)
    steps.commit("", -1)
    steps.commit("a", 2, version=8)
    steps.fetch_offsets("a", 2)
    steps.fetch_offsets("a", 0)
    steps.fetch_offsets("x", 2)
    steps.fetch_offsets(None, -1)
    steps.beat("a", -1)
    steps.commit("", -1)
    steps.commit("a", 2)


def static_members(steps: Steps) -> None:
    steps.join("a", instance_id="i")
    steps.join("b")
    steps.settle("b")
    steps.beat("a", instance_id="i")
    steps.beat("a", 2, steps.has["a"], instance_id="i")
    steps.beat("b")
    steps.join("c", instance_id="i")
    steps.beat("a", 3, instance_id="j")
    steps.beat("a", -2, instance_id="i")
    steps.look()
    steps.beat("a", 3, instance_id="i")
    steps.join("c", instance_id="i")
    steps.look()
    steps.beat("a", 3, instance_id="i")
    steps.beat("a", -1, instance_id="i")
    steps.beat("c", instance_id="i")
    steps.beat("c", -1, instance_id="i")
    steps.beat("b")


def classic_members(steps: Steps) -> None:
    """Two members of the classic protocol join a consumer group, and go."""
    steps.join("a")
    steps.classic_join("old", protocol_type="connect")
    steps.classic_join("old")
    steps.classic_join("old", steps.ids["old"])
    steps.look()
    steps.sync("old", 99)
    steps.sync("old")
    steps.classic_beat("old")
    steps.settle("a")
    steps.classic_beat("old")
    steps.classic_join("old", steps.ids["old"])
    steps.sync("old")
    steps.classic_beat("old")
    steps.classic_beat("old", 99)
    steps.commit("old", steps.epoch["old"])
    steps.commit("old", 99)
    steps.look()
    steps.join("b")
    steps.classic_beat("old")
    steps.sync("old")
    steps.classic_join("old", steps.ids["old"], steps.has["old"])
    steps.sync("old")
    steps.classic_beat("old")
    steps.classic_join("old", steps.ids["old"], steps.has["old"])
    steps.settle("a", "b")
    steps.classic_leave("old")
    steps.classic_leave("old")
    steps.classic_leave("a")
    steps.settle("a", "b")
    steps.look()


def upgrade_and_downgrade(steps: Steps) -> None:
    """A living classic group becomes a consumer group, and a classic one again."""
    steps.classic_join("old")
    steps.classic_join("old", steps.ids["old"])
    steps.sync("old", assignments=({"member_id": steps.ids["old"], "assignment": steps.assignment()},))
    steps.beat("new", 1)
    steps.beat("new", -1)
    steps.look()
    steps.join("new")
    steps.look()
    steps.classic_beat("old")
    steps.sync("old")
    steps.classic_join("old", steps.ids["old"], steps.has["old"])
    steps.sync("old")
    steps.classic_beat("old")
    steps.look()
    steps.beat("new")
    steps.look()
    steps.beat("new", -1)
    steps.look()
    steps.classic_beat("old")
    steps.classic_join("old", steps.ids["old"])
    steps.look()


def offsets_over_epochs(steps: Steps) -> None:
    """Commits that were sent before the member learned of its new epoch."""
    steps.join("a")
    everything = {number for _, number in steps.has["a"]}
    steps.join("b")
    steps.commit("a", 2)
    steps.beat("a")
    steps.commit("a", 2)
    kept = {number for _, number in steps.has["a"]}
    lost = everything - kept
    steps.commit("a", 2, partitions=(min(kept),))
    steps.commit("a", 2, partitions=(min(lost),))
    steps.commit("a", 3, partitions=(min(kept),))
    steps.beat("a", 2, steps.has["a"])
    steps.commit("a", 1, partitions=(min(kept),))
    steps.commit("a", 2, partitions=(min(kept),))
    steps.commit("a", 2, partitions=(min(lost),))
    steps.commit("a", 3, partitions=(min(kept),))
    steps.commit("a", 3, partitions=(min(lost),))
    steps.settle("a", "b")
    steps.commit("a", 2, partitions=(min(kept),))
    steps.commit("a", 2, partitions=(min(lost),))
    steps.commit("a", 2, partitions=(min(kept), min(lost)))
    steps.commit("a", 2, partitions=(min(lost), min(kept)))
    steps.commit("b", 3, partitions=(min(kept),))
    steps.commit("b", 2, partitions=(min(lost),))
    steps.commit("b", 1, partitions=(min(lost),))
    steps.commit("a", 0, partitions=(min(kept),))
    steps.fetch_offsets("a", 2)
    steps.fetch_offsets("a", 3)
    steps.beat("b", -1)
    steps.settle("a")
    steps.commit("a", 2, partitions=(min(kept),))
    steps.commit("a", 3, partitions=(min(kept),))
    steps.commit("a", 3, partitions=(min(lost),))
    steps.commit("a", 4, partitions=(min(lost),))


def offsets_of_static_members(steps: Steps) -> None:
    steps.join("a", instance_id="i")
    steps.join("b", instance_id="j")
    steps.settle_static("a", "b")
    mine, other = (tuple(sorted(number for _, number in steps.has[each])) for each in "ab")
    steps.commit("a", 3, partitions=mine)
    steps.commit("a", 2, partitions=mine)
    steps.commit("a", 1, partitions=mine)
    steps.beat("a", -2, instance_id="i")
    steps.commit("a", 3, partitions=mine)
    steps.commit("a", -2, partitions=mine)
    steps.commit("a", 1, partitions=mine)
    steps.join("c", instance_id="i")
    steps.commit("a", 3, partitions=mine)
    steps.commit("c", 3, partitions=mine)
    steps.commit("c", 2, partitions=mine)
    steps.commit("c", 1, partitions=mine)
    steps.commit("c", 0, partitions=mine)
    steps.commit("c", 2, partitions=other)
    steps.commit("c", -1, partitions=mine)


def subscriptions(steps: Steps) -> None:
    """What is read changes, and who assigns it."""
    steps.join("a", names=())
    steps.look()
    steps.beat("a", subscribed_topic_names=(steps.topic,))
    steps.beat("a", subscribed_topic_names=(steps.topic,))
    steps.beat("a", subscribed_topic_names=(steps.topic, "nowhere"))
    steps.join("b", names=("nowhere",), server_assignor="range")
    steps.settle("a", "b")
    steps.look()
    steps.beat("a", server_assignor="range")
    steps.beat("a", subscribed_topic_names=())
    steps.beat("a", None, frozenset())
    steps.beat("b", subscribed_topic_names=(steps.topic,))
    steps.settle("a", "b")
    steps.look()
    steps.join("b")
    steps.beat("b", 0, frozenset({(steps.topic_id, 0)}))
    steps.beat("b", -1)
    steps.join("b")


def upgrade_of_static_members(steps: Steps) -> None:
    """The member that changes protocols is the same static one, there and back."""
    steps.classic_join("old", group_instance_id="i")
    steps.sync(
        "old", group_instance_id="i", assignments=({"member_id": steps.ids["old"], "assignment": steps.assignment()},)
    )  # fmt: skip
    steps.join("new", instance_id="i")
    steps.look()
    steps.classic_beat("old")
    steps.join("newer", instance_id="i")
    steps.join("b")
    steps.beat("new", instance_id="i")
    steps.classic_join("older", group_instance_id="i")
    steps.look()
    steps.beat("new", instance_id="i")
    steps.sync("older", group_instance_id="i")
    steps.beat("b")
    steps.beat("b", -1)
    steps.look()
    steps.classic_join("older", steps.ids["older"], group_instance_id="i")
    steps.look()


def downgrade_by_a_static_member(steps: Steps) -> None:
    """The last member of the new protocol comes back with the old one."""
    steps.join("new", instance_id="i")
    steps.join("b", instance_id="j")
    steps.settle_static("new", "b")
    steps.classic_join("old", group_instance_id="i")
    steps.look()
    steps.sync("old", group_instance_id="i")
    steps.classic_join("older", group_instance_id="j")
    steps.look()
    steps.sync("older", group_instance_id="j")
    steps.classic_beat("old")
    steps.beat("b", instance_id="j")


def upgrade_of_a_rebalancing_group(steps: Steps) -> None:
    """A classic group has a leader that has not said who gets what, when a member of the new protocol comes."""
    steps.classic_join("old")
    steps.classic_join("old", steps.ids["old"])
    steps.look()
    steps.join("new")
    steps.look()
    steps.sync("old")
    steps.classic_beat("old")
    steps.classic_join("old", steps.ids["old"])
    steps.sync("old")
    steps.beat("old", 0, frozenset(), subscribed_topic_names=(steps.topic,), rebalance_timeout=1)
    steps.settle("new")
    steps.look()
    steps.classic_leave("new")
    steps.look()


def upgrade_of_another_kind_of_group(steps: Steps) -> None:
    """Connect's groups are classic, and stay so."""
    connect = {"protocol_type": "connect", "protocols": ({"name": "default", "metadata": b"x"},)}
    steps.classic_join("old", **connect)
    steps.classic_join("old", steps.ids["old"], **connect)
    steps.join("new")
    steps.look()


SCRIPTS = [
    sharing,
    refusals,
    offsets,
    offsets_over_epochs,
    offsets_of_static_members,
    subscriptions,
    static_members,
    classic_members,
    upgrade_and_downgrade,
    upgrade_of_static_members,
    downgrade_by_a_static_member,
    upgrade_of_a_rebalancing_group,
    upgrade_of_another_kind_of_group,
]


@pytest.fixture
def synchronous(kafka: RealKafka) -> Iterator[RealKafka]:
    """A Kafka that assigns with the heartbeat that asks for it; from 4.3 on it takes its time otherwise (KIP-1263)."""
    settings = {
        "group.consumer.assignment.interval.ms": "0",
        "group.consumer.assignor.offload.enable": "false",
    }
    alter(kafka, AlterConfigOpType.SET, settings)
    yield kafka
    alter(kafka, AlterConfigOpType.DELETE, settings)


def alter(kafka: RealKafka, operation: AlterConfigOpType, settings: dict[str, str]) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    entries = [ConfigEntry(name, value, incremental_operation=operation) for name, value in settings.items()]
    resource = ConfigResource(ConfigResource.Type.BROKER, "1", incremental_configs=entries)
    admin.incremental_alter_configs([resource])[resource].result(WAIT_S)


@pytest.fixture(scope="module")
def broker() -> Iterator[DevBroker]:
    with DevBroker() as running:
        yield running


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_the_same_answers(synchronous: RealKafka, broker: DevBroker, script: Callable[[Steps], None]) -> None:
    topic = f"{script.__name__}-{uuid.uuid4().hex[:8]}"
    ours, theirs = Steps(broker.bootstrap_servers, topic), Steps(synchronous.bootstrap_servers, topic)
    with ours.raw, theirs.raw:
        for steps in (ours, theirs):
            script(steps)
    pairs = itertools.zip_longest(ours.notes, theirs.notes)
    differences = [
        f"{place}: {our}, Kafka {their}" for place, (our, their) in enumerate(pairs) if our != their
    ]
    assert not differences, "\n".join(differences)
