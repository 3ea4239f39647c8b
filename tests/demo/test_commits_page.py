"""docs/commits.md tells a story in a table: it is played here, and every cell compared, on the embedded broker and on Apache Kafka."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from penstock import DevBroker, KafkaProducer
from tests.support.stepwise import Actor, Refused

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "commits.md"
PARTITIONS = 3
WAIT_S = 60.0
MEMBER = {
    "auto.offset.reset": "earliest",
    "enable.auto.commit": False,
    "session.timeout.ms": 3_000,
    "heartbeat.interval.ms": 200,
    "max.poll.interval.ms": 6_000,
}
Ranges = str
"""As in a cell: "0: 4-6, 1: 4-6"."""


@dataclass(frozen=True)
class Row:
    """A row of the table, its cells as they stand there."""

    step: str
    what: str
    returned: Ranges
    again: Ranges
    owned: dict[str, str]  # by consumer
    committed: list[str]  # by partition


def table() -> list[Row]:
    rows = []
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0].isdigit():
            step, what, returned, again, a, b, *committed = cells
            rows.append(Row(step, what, returned, again, {"A": a, "B": b}, committed))
    return rows


def ranges(places: list[tuple[int, int]]) -> Ranges:
    """What a cell says of these (partition, offset); each partition's offsets have to follow each other."""
    told = []
    for partition in sorted({place[0] for place in places}):
        offsets = [offset for number, offset in places if number == partition]
        assert offsets == list(range(offsets[0], offsets[-1] + 1)), f"partition {partition}: {offsets}"
        told.append(f"{partition}: {offsets[0]}" + (f"-{offsets[-1]}" if offsets[0] != offsets[-1] else ""))
    return ", ".join(told)


@dataclass
class Story:
    """Plays rows. `committed` asks the broker, not the consumers."""

    topic: str
    group: str
    bootstrap: str
    committed: Callable[[], dict[int, int]]
    actors: dict[str, Actor] = field(default_factory=dict)
    ends: list[int] = field(default_factory=lambda: [0] * PARTITIONS)
    hanging: set[str] = field(default_factory=set)
    begun: bool = False
    seen: set[tuple[int, int]] = field(default_factory=set)

    def play(self, row: Row) -> None:
        self._wake(row)
        returned = self._do(row.what)
        again = [place for place in returned if place in self.seen]
        self.seen |= set(returned)
        self._settle(row)
        assert (ranges(returned), ranges(again)) == (row.returned, row.again)
        stored = self.committed()
        assert [str(stored.get(number, "-")) for number in range(PARTITIONS)] == row.committed

    def _do(self, what: str) -> list[tuple[int, int]]:
        if stored := re.fullmatch(r"(\d+) records are stored in each partition", what):
            self._store(int(stored[1]))
            return []
        who, did, *rest = re.split(r"[\s:,]+", what)
        if did == "polls":
            return [tuple(place) for place in self.actors[who].ask("poll", ends=self.ends)]
        if did == "commits":
            self._commit(self.actors[who], what)
        elif did == "joins":
            config = {
                **MEMBER,
                "bootstrap.servers": self.bootstrap,
                "group.id": self.group,
                "client.id": who.lower(),
            }
            self.actors[who] = Actor(self.topic, config)
            self.begun = True
        elif did == "hangs":
            self.actors[who].ask("hang")
            self.hanging.add(who)
        elif did in ("crashes", "closes"):
            actor = self.actors.pop(who)
            (actor.crash if did == "crashes" else actor.close)()
        else:
            raise AssertionError(f"what is {what!r}?")
        assert not rest or did == "commits", f"what is {rest} in {what!r}?"
        return []

    def _store(self, count: int) -> None:
        with KafkaProducer(bootstrap_servers=self.bootstrap) as producer:
            for partition in range(PARTITIONS):
                for number in range(count):
                    producer.send(self.topic, b"%d" % number, partition=partition)
                self.ends[partition] += count

    def _commit(self, actor: Actor, what: str) -> None:
        asked = re.fullmatch(r"[AB] commits(?: (\d) at (\d+))?(, `allow_rewind`)?(?:: `(\w+)`)?", what)
        assert asked is not None, f"what is {what!r}?"
        partition, offset, rewind, refusal = asked.groups()
        where = {} if partition is None else {"partition": int(partition), "offset": int(offset)}
        try:
            actor.ask("commit", **where, allow_rewind=rewind is not None)
            outcome = None
        except Refused as error:
            outcome = str(error)
        assert outcome == refusal

    def _wake(self, row: Row) -> None:
        """One that was hanging polls, hears that it is out, and is a member again before it reads."""
        for who in [who for who in self.hanging if row.what == f"{who} polls"]:
            self.hanging.remove(who)
            self.actors[who].ask("wake")
            self._settle(row)

    def _owned(self, who: str) -> str:
        if who not in self.actors:
            return ""
        told = " ".join(map(str, self.actors[who].ask("owned")))
        return f"({told})" if who in self.hanging else told

    def _settle(self, row: Row) -> None:
        self._until(lambda: {who: self._owned(who) for who in row.owned} == row.owned)

    def _until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            owned = {who: self._owned(who) for who in self.actors}
            assert time.monotonic() < deadline, f"not within {WAIT_S} s; owned: {owned}"
            time.sleep(0.02)

    def end(self) -> None:
        for actor in self.actors.values():
            actor.end()


@contextmanager
def embedded(topic: str, group: str) -> Iterator[Story]:
    with DevBroker() as broker:
        broker.create_topic(topic, PARTITIONS)
        yield Story(
            topic,
            group,
            broker.bootstrap_servers,
            lambda: {place[1]: offset for place, offset in broker.committed(group).items()},
        )


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def story(request: pytest.FixtureRequest, topic: str, unique: Callable[[str], str]) -> Iterator[Story]:
    group = unique("group")
    if request.param == "embedded":
        with embedded(topic, group) as story:
            yield story
            story.end()
        return
    kafka = request.getfixturevalue("kafka")
    kafka.create_topic(topic, PARTITIONS)

    def committed() -> dict[int, int]:
        return kafka.committed(group, topic) if story.begun else {}  # librdkafka waits for no coordinator

    story = Story(topic, group, kafka.bootstrap_servers, committed)
    yield story
    story.end()


def test_every_cell_is_so(story: Story) -> None:
    rows = table()
    assert [row.step for row in rows] == [str(number) for number in range(1, 31)]
    for row in rows:
        try:
            story.play(row)
        except AssertionError as error:
            raise AssertionError(f"step {row.step}, {row.what}: {error}") from error
