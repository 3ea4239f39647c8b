"""Apache Kafka's own command-line tools, and so the Java clients, against the embedded broker."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer
from tools.kafka.java import java_tool

from penstock.devbroker import DevBroker

pytestmark = pytest.mark.kafka  # the tools come with the jars of a real Kafka

TOOLS = "org.apache.kafka.tools"
WAIT_S = 30.0
GROUPS = f"{TOOLS}.consumer.group.ConsumerGroupCommand"


@pytest.fixture(scope="module")
def broker() -> Iterator[DevBroker]:
    with DevBroker() as running:
        yield running


def run(broker: DevBroker, tool: str, *args: str, lines: str | None = None) -> str:
    return java_tool(tool, ["--bootstrap-server", broker.bootstrap_servers, *args], lines).stdout


def test_topics_records_and_groups(broker: DevBroker) -> None:
    run(broker, f"{TOOLS}.TopicCommand", "--create", "--topic", "t", "--partitions", "2")
    described = run(broker, f"{TOOLS}.TopicCommand", "--describe", "--topic", "t")
    assert "PartitionCount: 2" in described
    lines = "".join(f"k{number}:v{number}\n" for number in range(20))
    options = ["--reader-property", "parse.key=true", "--reader-property", "key.separator=:"]
    run(
        broker,
        f"{TOOLS}.ConsoleProducer",
        "--topic",
        "t",
        "--compression-codec",
        "zstd",
        *options,
        lines=lines,
    )
    assert sum(broker.end_offsets("t").values()) == 20
    read = run(
        broker,
        f"{TOOLS}.consumer.ConsoleConsumer",
        *[
            "--topic",
            "t",
            "--from-beginning",
            "--max-messages",
            "20",
            "--timeout-ms",
            "20000",
            "--group",
            "g",
        ],
        *["--formatter-property", "print.key=true", "--formatter-property", "key.separator=:"],
    )
    assert sorted(read.split()) == sorted(lines.split())
    assert sum(broker.committed("g").values()) == 20

    table = run(broker, GROUPS, "--describe", "--group", "g")
    rows = [line.split() for line in table.splitlines() if line.startswith("g ")]
    assert sorted((row[1], row[2], row[5]) for row in rows) == [("t", "0", "0"), ("t", "1", "0")]
    assert "Empty" in run(broker, GROUPS, "--list", "--state")
    run(broker, GROUPS, "--reset-offsets", "--to-earliest", "--group", "g", "--topic", "t", "--execute")
    assert set(broker.committed("g").values()) == {0}
    assert "successful" in run(broker, GROUPS, "--delete", "--group", "g")
    latest = run(broker, f"{TOOLS}.GetOffsetShell", "--topic", "t", "--time", "latest")
    assert sum(int(line.rsplit(":", 1)[1]) for line in latest.split()) == 20


def test_a_transactional_java_producer(broker: DevBroker) -> None:
    broker.create_topic("tx")
    run(
        broker,
        f"{TOOLS}.ProducerPerformance",
        *["--topic", "tx", "--num-records", "2000", "--record-size", "100", "--throughput", "-1"],
        *["--transactional-id", "java", "--transaction-duration-ms", "50"],
    )
    read = run(
        broker,
        f"{TOOLS}.consumer.ConsoleConsumer",
        *["--topic", "tx", "--from-beginning", "--max-messages", "2000", "--timeout-ms", "20000"],
        *["--isolation-level", "read_committed"],
    )
    assert len(read.splitlines()) == 2000
    assert broker.end_offsets("tx")[0] > 2000, "markers have offsets too"


def test_a_consumer_group_of_the_new_protocol(broker: DevBroker) -> None:
    """KIP-848 as the Java consumer speaks it, and as the group tool shows it."""
    broker.create_topic("n", 4)
    lines = "".join(f"v{number}\n" for number in range(40))
    run(broker, f"{TOOLS}.ConsoleProducer", "--topic", "n", lines=lines)
    consume = [
        *["--topic", "n", "--group", "new", "--from-beginning", "--timeout-ms", "20000"],
        *["--command-property", "group.protocol=consumer"],
    ]
    heartbeats: list[object] = []
    remove = broker.intercept(68, lambda request, connection: heartbeats.append(request))
    read = run(broker, f"{TOOLS}.consumer.ConsoleConsumer", *consume, "--max-messages", "40")
    remove()
    assert heartbeats
    assert sorted(read.split()) == sorted(lines.split())
    assert sum(broker.committed("new").values()) == 40

    consumer = Consumer(
        {
            "bootstrap.servers": broker.bootstrap_servers,
            "group.id": "new",
            "group.protocol": "consumer",
            "client.id": "cc",
        }
    )
    try:
        consumer.subscribe(["n"])
        deadline = time.monotonic() + WAIT_S
        while len(consumer.assignment()) < 4 and time.monotonic() < deadline:
            consumer.poll(0.1)
        state = run(broker, GROUPS, "--describe", "--group", "new", "--state", "--verbose")
        assert "Stable" in state
        assert "uniform" in state
        members = run(broker, GROUPS, "--describe", "--group", "new", "--members", "--verbose")
        assert "n:0,1,2,3" in members
        assert "cc" in members
        table = run(broker, GROUPS, "--describe", "--group", "new")
        assert len([line for line in table.splitlines() if line.startswith("new ")]) == 4
        assert "Consumer" in run(broker, GROUPS, "--list", "--type")
    finally:
        consumer.close()
    assert "successful" in run(broker, GROUPS, "--delete", "--group", "new")
