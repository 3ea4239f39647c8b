"""A processor with a spool against the embedded broker: kills, outages, rewinds, topics made again, disks that fill."""

from __future__ import annotations

import json
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock import DevBroker, KafkaProducer
from penstock.processing.spool.format import decode_entries
from penstock.processing.spool.journal import JournalState
from tests.devbroker.test_processor import committed, until
from tests.support import processors

_FETCH = 1


@pytest.fixture(scope="module")
def broker() -> Iterator[DevBroker]:
    with DevBroker(group_initial_rebalance_delay_ms=0) as running:
        yield running


def made(broker: DevBroker, values: list[str], name: str | None = None) -> str:
    """A topic of one partition with these, each of another key."""
    name = name or f"t-{uuid.uuid4().hex[:8]}"
    broker.create_topic(name, partitions=1)
    write(broker, name, values)
    return name


def write(broker: DevBroker, topic: str, values: list[str]) -> None:
    with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
        for number, value in enumerate(values):
            producer.send(topic, value=value.encode(), key=b"k%d" % number)


class Child:
    """A processor of tests.support.processors in a process of its own, and what it has noted."""

    def __init__(self, broker: DevBroker, topic: str, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.notes = folder.parent / f"notes-{uuid.uuid4().hex[:8]}"
        self._child = processors.child(
            "spool",
            broker.bootstrap_servers,
            f"g-{topic}",
            topic,
            str(folder),
            str(self.notes),
            json.dumps(options),
        )

    def __enter__(self) -> Child:
        self.process = self._child.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._child.__exit__(*error)

    def handled(self) -> list[int]:
        """Offsets, in the order of the calls."""
        if not self.notes.exists():
            return []
        return [int(line.split()[1]) for line in self.notes.read_text().splitlines()]

    def journal(self) -> JournalState:
        """What stands in the journal of the partition now."""
        found = JournalState()
        for path in self.folder.glob("*/*/*/journal"):
            data = path.read_bytes()
            identity_ends = 12 + int.from_bytes(data[4:8], "little")
            found = JournalState.of(decode_entries(data, identity_ends)[0])
        return found

    def done(self) -> int:
        """How many records the journal calls done."""
        return sum(end - start for start, end in self.journal().ranges(None))

    def kill(self) -> str:
        return processors.ended(self.process, signal.SIGKILL)

    def stop(self) -> str:
        return processors.ended(self.process, signal.SIGTERM)


def fetched_from(broker: DevBroker, seen: list[int]) -> Any:
    """The fetch offsets that are asked for from now on."""

    def look(request: Any, connection: Any) -> None:
        seen.extend(partition.fetch_offset for topic in request.body.topics for partition in topic.partitions)

    return broker.intercept(_FETCH, look)


def test_after_a_kill_nothing_is_fetched_twice_nor_handled_twice(broker: DevBroker, tmp_path: Path) -> None:
    values = ["hangs" if number == 3 else "x" for number in range(1000)]
    topic = made(broker, values)
    with Child(broker, topic, tmp_path / "spool", hangs=True, commit_interval="1h") as child:
        until(lambda: len(child.handled()) == 999 and child.done() == 999, "all but one")
        child.kill()
    assert committed(broker, f"g-{topic}", topic, 1) == {}, "nothing was committed"
    write(broker, topic, ["later"] * 5)
    asked: list[int] = []
    remove = fetched_from(broker, asked)
    with Child(broker, topic, tmp_path / "spool") as child:
        until(lambda: committed(broker, f"g-{topic}", topic, 1) == {0: 1005}, "all committed")
        child.stop()
    remove()
    assert sorted(child.handled()) == [3, *range(1000, 1005)]
    assert min(asked) == 1000, "what was on disk was fetched again"
