"""penstock groups"""

from __future__ import annotations

import pytest

from penstock import DevBroker, KafkaConsumer, KafkaProducer
from tests.cli.conftest import CommandLine


@pytest.fixture
def orders(broker: DevBroker, producer: KafkaProducer) -> str:
    broker.create_topic("orders", partitions=2)
    for number in range(10):
        producer.send("orders", str(number), partition=number % 2)
    producer.flush()
    return "orders"


def rows(text: str, header: str) -> list[list[str]]:
    """The rows of the table under the header that begins so."""
    lines = text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(header))
    return [line.split() for line in lines[start + 1 :] if line]


def test_members_lag_and_owner(penstock: CommandLine, broker: DevBroker, orders: str) -> None:
    config = {
        "bootstrap_servers": broker.bootstrap_servers,
        "auto_offset_reset": "earliest",
        "client_id": "worker",
    }
    with KafkaConsumer(orders, group_id="billing", enable_auto_commit=False, **config) as consumer:
        seen = 0
        while seen < 10:
            seen += len(consumer.poll(timeout=1000))
        consumer.commit(dict.fromkeys(consumer.assignment(), 2))
        assert rows(penstock("groups", "list").stdout, "group") == [["billing", "Stable", "classic"]]
        shown = penstock("groups", "describe", "billing").stdout
    assert shown.startswith("billing: Stable, 1 members, assignor range")
    assert rows(shown, "topic") == [
        ["orders", "0", "2", "5", "3", "worker"],
        ["orders", "1", "2", "5", "3", "worker"],
    ]


def test_reset(penstock: CommandLine, broker: DevBroker, orders: str) -> None:
    penstock("consume", orders, "--group", "billing", "-e")
    assert set(broker.committed("billing").values()) == {5}

    dry = penstock("groups", "reset", "billing", "-t", orders, "--to", "beginning", "--dry-run").stdout
    assert rows(dry, "topic") == [["orders", "0", "5", "0"], ["orders", "1", "5", "0"]]
    assert set(broker.committed("billing").values()) == {5}

    penstock("groups", "reset", "billing", "-t", orders, "--to", "-2", "-p", "1")
    assert broker.committed("billing") == {("orders", 0): 5, ("orders", 1): 3}
    assert penstock("consume", orders, "--group", "billing", "-e").stdout.splitlines() == ["7", "9"]


def test_reset_refuses_a_group_at_work(penstock: CommandLine, broker: DevBroker, orders: str) -> None:
    with KafkaConsumer(orders, group_id="billing", bootstrap_servers=broker.bootstrap_servers) as consumer:
        while not consumer.assignment():
            consumer.poll(timeout=100)
        done = penstock("groups", "reset", "billing", "-t", orders, "--to", "beginning", code=1)
    assert "billing" in done.stderr


def test_delete(penstock: CommandLine, broker: DevBroker, orders: str) -> None:
    penstock("consume", orders, "--group", "billing", "-e")
    penstock("groups", "delete", "billing")
    assert rows(penstock("groups", "list").stdout, "group") == []
    assert "billing" in penstock("groups", "delete", "billing", code=1).stderr


def test_a_group_that_does_not_exist(penstock: CommandLine) -> None:
    assert "nothing" in penstock("groups", "describe", "nothing", code=1).stderr
    assert "no topic" not in penstock("groups", "list").stderr


def test_wrong_calls(penstock: CommandLine, orders: str) -> None:
    penstock("groups", "reset", "billing", "-t", orders, "--to", "tomorrow", code=2)
    penstock("groups", "reset", "billing", "-t", orders, code=2)
    assert "no partition 7" in penstock(
        "groups", "reset", "billing", "-t", orders, "--to", "end", "-p", "7", code=1
    ).stderr  # fmt: skip
