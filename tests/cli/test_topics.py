"""penstock topics"""

from __future__ import annotations

from penstock import DevBroker, KafkaProducer
from tests.cli.conftest import CommandLine


def test_create_list_describe_delete(penstock: CommandLine, broker: DevBroker) -> None:
    penstock("topics", "create", "orders", "visits", "-p", "3", "-c", "retention.bytes=1000000")
    assert penstock("topics", "list").stdout.split() == ["orders", "visits"]
    assert len(broker.end_offsets("orders")) == 3

    shown = penstock("topics", "describe", "orders", "--config").stdout
    assert shown.startswith("orders: 3 partitions, id ")
    assert "retention.bytes" in shown and "1000000" in shown

    penstock("topics", "delete", "orders")
    assert penstock("topics", "list").stdout.split() == ["visits"]


def test_describe_shows_offsets(penstock: CommandLine, broker: DevBroker, producer: KafkaProducer) -> None:
    broker.create_topic("orders", partitions=2)
    for _ in range(5):
        producer.send("orders", b"v", partition=1)
    producer.flush()
    rows = [line.split() for line in penstock("topics", "describe", "orders").stdout.splitlines()[2:]]
    assert [(row[0], row[-2], row[-1]) for row in rows] == [("0", "0", "0"), ("1", "0", "5")]


def test_a_topic_that_exists(penstock: CommandLine, broker: DevBroker) -> None:
    broker.create_topic("orders")
    assert "TOPIC_ALREADY_EXISTS" in penstock("topics", "create", "orders", code=1).stderr
    penstock("topics", "create", "orders", "visits", "--if-not-exists")
    assert penstock("topics", "list").stdout.split() == ["orders", "visits"]


def test_a_topic_that_does_not_exist(penstock: CommandLine) -> None:
    for action in ("describe", "delete"):
        done = penstock("topics", action, "nothing", code=1)
        assert "nothing" in done.stderr
        assert done.stdout == ""
    assert penstock("topics", "list").stdout == "", "describing a topic must not create it"


def test_wrong_calls(penstock: CommandLine) -> None:
    penstock("topics", "create", code=2)
    penstock("topics", "create", "orders", "-p", "0", code=2)
    penstock("topics", "create", "orders", "-c", "retention", code=2)
    penstock("topics", "paint", code=2)
