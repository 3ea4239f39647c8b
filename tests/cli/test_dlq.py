"""penstock dlq: what is there and why, and back to where it came from."""

from __future__ import annotations

import json
import threading
import time
import uuid
from typing import Any

import pytest

from penstock import DevBroker, KafkaConsumer, KafkaProducer, Processor
from tests.cli.conftest import CommandLine

WAIT_S = 30.0


class Orders:
    """A topic with ten records, the processor of which puts two into the dead letters, until they are mended."""

    def __init__(self, broker: DevBroker, exactly_once: bool = False) -> None:
        self.broker = broker
        self.exactly_once = exactly_once
        self.topic = f"orders-{uuid.uuid4().hex[:8]}"
        self.dead = f"{self.topic}.dlq"
        self.group = f"g-{self.topic}"
        self.mended = False
        broker.create_topic(self.topic, partitions=1)
        broker.create_topic(self.dead, partitions=1)
        with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
            for number in range(10):
                producer.send(self.topic, b"v%d" % number, b"k%d" % number, headers=[("own", b"x")])

    def process(self, until: int) -> list[Any]:
        """Handle until so many are done or dead."""
        processor = Processor(
            {
                "bootstrap.servers": self.broker.bootstrap_servers,
                "group.id": self.group,
                "auto.offset.reset": "earliest",
            },
            exactly_once=self.exactly_once,
        )
        seen: list[Any] = []
        done = [0]

        @processor.handler(self.topic, dead_letter=self.dead)
        async def handle(record: Any) -> None:
            done[0] += 1
            if record.key == b"k3" and not self.mended:
                raise ValueError("a bad order")
            if record.key == b"k7" and not self.mended:
                raise LookupError("unknown\ncustomer")
            seen.append(record)

        thread = threading.Thread(target=processor.run)
        thread.start()
        deadline = time.monotonic() + WAIT_S
        while done[0] < until and time.monotonic() < deadline:
            time.sleep(0.02)
        processor.stop()
        thread.join(WAIT_S)
        assert not thread.is_alive() and done[0] == until
        return seen


@pytest.fixture(params=[False, True], ids=["", "exactly-once"])
def orders(broker: DevBroker, request: pytest.FixtureRequest) -> Orders:
    made = Orders(broker, exactly_once=request.param)
    made.process(10)
    return made


def test_list_show_redrive(penstock: CommandLine, orders: Orders) -> None:
    listed = penstock("dlq", "list").stdout
    rows = [line.split() for line in listed.splitlines() if line.startswith(orders.dead)]
    assert rows == [
        [orders.dead, orders.topic, "builtins.LookupError", "1"],
        [orders.dead, orders.topic, "builtins.ValueError", "1"],
    ]
    shown = penstock("dlq", "show", orders.dead).stdout
    assert f"{orders.topic}-0@3" in shown and "a bad order" in shown and "unknown customer" in shown
    (letter,) = [
        json.loads(line)
        for line in penstock(
            "dlq", "show", orders.dead, "--json", "--where", "exception=Lookup"
        ).stdout.splitlines()
    ]
    assert letter["key"] == "k7" and letter["offset"] == 7 and "Traceback" in letter["stacktrace"]
    assert "would be put back" in penstock("dlq", "redrive", orders.dead, "--dry-run").stdout
    penstock("dlq", "redrive", orders.dead)
    assert penstock("dlq", "redrive", orders.dead).stdout.split() == ["put", "back", "to", "records"]
    orders.mended = True
    again = orders.process(2)
    assert sorted(record.value for record in again) == [b"v3", b"v7"]
    assert ("own", b"x") in again[0].headers
    assert not any("exception" in name for name, _ in again[0].headers)


def test_what_fails_again_keeps_its_first_origin(penstock: CommandLine, orders: Orders) -> None:
    penstock("dlq", "redrive", orders.dead, "--where", "key=k3", "--limit", "1")
    orders.process(1)
    letters = [
        json.loads(line)
        for line in penstock("dlq", "show", orders.dead, "--json", "--where", "key=k3").stdout.splitlines()
    ]
    assert [(letter["offset"], letter["rounds"]) for letter in letters] == [(3, 1), (3, 2)]


def test_mistakes_are_said(penstock: CommandLine, orders: Orders) -> None:
    assert "no topic" in penstock("dlq", "show", "nothing.dlq", code=1).stderr
    assert "none of" in penstock("dlq", "show", orders.dead, "--where", "color=red", code=2).stderr
    other = f"plain-{uuid.uuid4().hex[:8]}"
    orders.broker.create_topic(other)
    with KafkaProducer(bootstrap_servers=orders.broker.bootstrap_servers) as producer:
        producer.send(other, b"x")
    assert "--to" in penstock("dlq", "redrive", other, code=1).stderr
    penstock("dlq", "redrive", other, "--to", orders.topic)
    with KafkaConsumer(
        orders.topic, bootstrap_servers=orders.broker.bootstrap_servers, group_id="r"
    ) as consumer:
        assert consumer is not None
