"""Groups under stress, by both protocols: who owns what and when, handlers that are slow or hang, epochs that are behind."""

from __future__ import annotations

import contextlib
import itertools
import random
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from penstock import KafkaConsumer, TopicPartition
from penstock.devbroker import DevBroker
from penstock.errors import CommitFailedError
from tests.support import history as h
from tests.support.kafka import RealKafka
from tests.support.polling import (
    PROTOCOLS,
    WAIT_S,
    Polling,
    history_of,
    member_options,
    reads,
    shared_out,
    together,
    until,
)
from tests.support.proxy import TO_SERVER, Proxy
from tests.support.workload import SOAK_SECONDS, Feed, all_stored_commits

pytestmark = pytest.mark.kafka
OFFSET_COMMIT, OFFSET_FETCH, STALE_MEMBER_EPOCH = 8, 9, 113


def places_of(topic: str, count: int) -> list[h.Place]:
    return [h.Place(topic, number) for number in range(count)]


def exactly_once(history: h.History) -> list[str]:
    """Nobody died and every commit before a hand-over was stored: then no record comes twice."""
    counts = Counter((read.place, read.offset) for read in history.reads())
    return [f"{place} offset {offset}: {n} times" for (place, offset), n in counts.items() if n > 1][:5]


# ------------------------------------------------------------ ownership


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_07_no_overlap(kafka: RealKafka, topic: str, unique: Callable[[str], str], protocol: str) -> None:
    """Members come and go while records flow, and take their time in on_partitions_revoked: until it has returned nobody else begins
    with the partition, and afterwards nothing of it is returned to the old owner."""
    kafka.create_topic(topic, 6)
    places, options = places_of(topic, 6), member_options(kafka, unique("group"), protocol)
    numbers = itertools.count(1)
    with Feed(kafka, topic) as feed:

        def wait_for_more(one: Polling, partitions: list[TopicPartition]) -> None:
            """So that there are records which another could begin with too early."""
            enough, deadline = len(feed.acknowledged) + 100, time.monotonic() + WAIT_S
            while partitions and feeding and len(feed.acknowledged) < enough:
                assert time.monotonic() < deadline, "the feed stands still"
                time.sleep(0.01)

        def member() -> Polling:
            return Polling(
                f"m{next(numbers)}", kafka.bootstrap_servers, [topic], revoked=wait_for_more, **options
            )

        feeding, crew = True, [member(), member()]
        with together(*crew):
            until(crew, lambda: shared_out(crew, places), "two share")
            with member() as third:
                crew.append(third)
                until(crew, lambda: shared_out(crew, places), "three share")
                crew[0].stop()
                until(crew, lambda: shared_out(crew[1:], places), "one has left")
                with member() as fourth:
                    crew.append(fourth)
                    until(crew, lambda: shared_out(crew[1:], places), "another has come")
                    feed.stop()
                    feeding = False
                    until(crew, lambda: not h.unseen(history_of(crew, feed.acknowledged)), "all is read")
        history = history_of(crew, feed.acknowledged)
    assert [(one.error, one.refused) for one in crew] == [(None, [])] * 4
    assert h.owned_by_one_at_a_time(history) == []
    assert h.only_while_owned(history) == []
    assert h.contiguous(history) == []
    assert exactly_once(history) == []
    assert "lost" not in [call for one in crew for call in one.calls]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_12_superseded_revoke(
    kafka: RealKafka, topic: str, unique: Callable[[str], str], protocol: str
) -> None:
    """A member gives up what another is to have; while its listener still runs, the other leaves. It has everything again, from where it
    committed, and reads on."""
    kafka.create_topic(topic, 4)
    places, options = places_of(topic, 4), member_options(kafka, unique("group"), protocol)
    inside, release = threading.Event(), threading.Event()

    def hold(one: Polling, partitions: list[TopicPartition]) -> None:
        if partitions and not release.is_set():
            inside.set()
            assert release.wait(WAIT_S)

    with Polling("stays", kafka.bootstrap_servers, [topic], revoked=hold, **options) as stays:
        stays.until(lambda: stays.owned == set(places), "all for one")
        kafka.produce(topic, [(b"%d" % n, b"%d" % n) for n in range(100)])
        stays.until(lambda: len(reads(stays)) == 100, "what is there")
        with Polling("goes", kafka.bootstrap_servers, [topic], **options) as goes:
            stays.until(inside.is_set, "a revocation")
        kafka.produce(topic, [(b"%d" % n, b"%d" % n) for n in range(100, 200)])
        release.set()
        stays.until(lambda: len(reads(stays)) == 200, "what came meanwhile")
        assert stays.owned == set(places) and stays.calls[-1] == "assigned"
        kafka.produce(topic, [(b"%d" % n, b"%d" % n) for n in range(200, 300)])
        stays.until(lambda: len(reads(stays)) == 300, "what comes after")
    history = history_of([stays, goes])
    assert (stays.error, goes.error, reads(goes)) == (None, None, [])
    assert "lost" not in stays.calls and stays.refused == []
    assert h.only_while_owned(history) == [] and exactly_once(history) == []


UNEQUAL = {"one": "x", "two": "xy", "three": "yz", "four": "z"}
"""Who reads which topics, by their last letters."""


@pytest.mark.parametrize(
    "assignor",
    ["range", "roundrobin", "sticky", "cooperative-sticky", "consumer:uniform", "consumer:range"],
)
def test_22_valid_assignment(kafka: RealKafka, unique: Callable[[str], str], assignor: str) -> None:
    """Unequal subscriptions: every partition has one owner, who wants it, with each number of members."""
    topics = {
        letter: kafka.create_topic(unique(letter), count)
        for letter, count in zip("xyz", (3, 5, 4), strict=True)
    }
    places = [
        h.Place(topics[letter], n)
        for letter, count in zip("xyz", (3, 5, 4), strict=True)
        for n in range(count)
    ]
    protocol, _, remote = assignor.partition(":")
    options = member_options(kafka, unique("group"), protocol)
    if remote:
        options["group_remote_assignor"] = remote
    crew = [
        Polling(name, kafka.bootstrap_servers, [topics[letter] for letter in letters], **options)
        for name, letters in UNEQUAL.items()
    ]
    wanted = {one.name: {topics[letter] for letter in UNEQUAL[one.name]} for one in crew}

    def valid(members: list[Polling]) -> bool:
        assert all(place.topic in wanted[one.name] for one in members for place in set(one.owned))
        return h.one_owner_each({one.name: set(one.owned) for one in members}, places) == []

    with together(*crew):
        until(crew, lambda: shared_out(crew, places) and valid(crew), "all four")
        stored = []
        for turn, staying in enumerate([crew, [crew[0], crew[1], crew[2]], [crew[1], crew[2]]]):
            for one in crew:
                if one not in staying:
                    one.stop()
            until(crew, lambda s=staying: valid(s), f"{len(staying)} members")
            for place in places:
                (where,) = kafka.produce(place.topic, [(None, b"%d" % turn)], partition=place.partition)
                stored.append((place, where[1]))
            until(
                crew,
                lambda: {(r.place, r.offset) for r in history_of(crew).reads()} == set(stored),
                "a record of every partition",
            )
    history = history_of(crew)
    assert [one.error for one in crew] == [None] * 4
    assert h.only_while_owned(history) == [] and h.owned_by_one_at_a_time(history) == []
    assert exactly_once(history) == []


# ------------------------------------------------------------ handlers that take long

INTERVAL_MS = 1_000
LONG_S = 10 * INTERVAL_MS / 1000


def take_slowly(one: Polling, records: Any) -> None:
    """Each record takes half of max.poll.interval.ms."""
    for record in records:
        if record.raw_value == b"slow":
            time.sleep(INTERVAL_MS / 2_000)
    one.commit()


def note_progress(one: Polling, records: Any) -> None:
    """Each record takes ten times max.poll.interval.ms, and says so."""
    for record in records:
        ends = time.monotonic() + LONG_S
        while record.raw_value == b"slow" and time.monotonic() < ends:
            one.consumer.note_progress()
            time.sleep(INTERVAL_MS / 10_000)
    one.commit()


@pytest.mark.parametrize("protocol", ["range", "consumer"])
def test_16_long_handler(kafka: RealKafka, topic: str, unique: Callable[[str], str], protocol: str) -> None:
    """Whoever makes progress stays a member, by whatever kind of progress; whoever hangs is found out, and its late commit refused."""
    kafka.create_topic(topic, 3)
    group = unique("group")
    options = {**member_options(kafka, group, protocol), "max_poll_interval_ms": INTERVAL_MS}
    hanging, release = threading.Event(), threading.Event()

    def hang_on_demand(one: Polling, records: Any) -> None:
        if any(record.raw_value == b"hang" for record in records) and not hanging.is_set():
            hanging.set()
            assert release.wait(WAIT_S)
        one.commit()

    def member(name: str, handle: Callable[[Polling, Any], None]) -> Polling:
        return Polling(name, kafka.bootstrap_servers, [topic], handle=handle, **options)

    takes, notes, hangs = crew = [
        member("takes", take_slowly),
        member("notes", note_progress),
        member("hangs", hang_on_demand),
    ]
    with together(*crew):
        until(crew, lambda: shared_out(crew, places_of(topic, 3)), "a share for each")
        members, calls = [one.member for one in crew], [list(one.calls) for one in crew]
        (place,) = hangs.owned
        for one, count in ((takes, 20), (notes, 1)):
            (slow,) = one.owned
            kafka.produce(topic, [(None, b"slow")] * count, partition=slow.partition)
        until(crew, lambda: sum(kafka.committed(group, topic).values()) == 21, "both have handled theirs")
        assert [one.member for one in crew] == members, "no rebalance"
        assert [one.calls for one in crew] == calls

        kafka.produce(topic, [(None, b"hang")], partition=place.partition)
        until(crew, lambda: place in takes.owned | notes.owned, "another has the partition of one that hangs")
        assert hanging.is_set() and place in hangs.owned and hangs.refused == [], "it has not heard of it yet"
        until(crew, lambda: place in {read.place for read in reads(takes) + reads(notes)}, "its record")
        release.set()
        until(crew, lambda: "lost" in hangs.calls, "it hears of the loss in its next poll")
        assert [type(error) for error in hangs.refused] == [CommitFailedError]
        until(crew, lambda: shared_out(crew, places_of(topic, 3)), "a share for each again")
    assert h.only_while_owned(history_of(crew)) == []


@pytest.mark.parametrize("way", ["polls", "closes"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_16_a_revocation_that_came_too_late(
    kafka: RealKafka, topic: str, unique: Callable[[str], str], protocol: str, way: str
) -> None:
    """A member is asked to give partitions back while it hangs, and is put out: when it comes to it hears that they are lost, once, for
    another has them."""
    kafka.create_topic(topic, 2)
    places = places_of(topic, 2)
    options = {**member_options(kafka, unique("group"), protocol), "max_poll_interval_ms": INTERVAL_MS}
    hanging, release = threading.Event(), threading.Event()

    def hang(one: Polling, records: Any) -> None:
        if not hanging.is_set():
            hanging.set()
            assert release.wait(WAIT_S)

    with Polling("hangs", kafka.bootstrap_servers, [topic], handle=hang, **options) as hangs:
        hangs.until(lambda: hangs.owned == set(places), "all for one")
        kafka.produce(topic, [(None, b"hang")])
        hangs.until(hanging.is_set, "it hangs")
        with Polling("other", kafka.bootstrap_servers, [topic], **options) as other:
            other.until(lambda: other.owned == set(places), "all for the other")
            hangs.until(lambda: hangs.member[1] < 0, "its engine knows")
            assert hangs.calls == ["assigned"]
            if way == "closes":
                hangs._stop.set()
            release.set()
            hangs.until(lambda: len(hangs.calls) > 1, "it hears of it")
            if way == "polls":
                until([hangs, other], lambda: shared_out([hangs, other], places), "a share for each")
            else:
                hangs.stop()
        lost = [
            place
            for event in hangs.events
            if isinstance(event, h.Taken) and event.lost
            for place in event.places
        ]
        assert sorted(lost) == places and hangs.calls[1] == "lost"
        assert way == "polls" or "revoking" not in hangs.calls


# ------------------------------------------------------------ an epoch that is behind


def commit_alone(bootstrap: str, group: str, place: TopicPartition, offset: int) -> None:
    with KafkaConsumer(bootstrap_servers=bootstrap, group_id=group) as consumer:
        consumer.assign([place])
        consumer.commit({place: offset})


def read_from(consumer: KafkaConsumer) -> int:
    """The offset of the first record."""
    deadline = time.monotonic() + WAIT_S
    while not (records := consumer.poll(timeout=100)):
        assert time.monotonic() < deadline, "nothing is read"
    return records[0].offset


def test_18_stale_epoch_offset_fetch_and_commit(unique: Callable[[str], str]) -> None:
    """STALE_MEMBER_EPOCH three times and then a yes: asked by the same member, and taken neither for "nothing committed" nor for a
    fence. auto.offset.reset=latest would skip what is there."""
    group, tp = unique("group"), TopicPartition("t", 0)
    refusals, members = {OFFSET_FETCH: 3, OFFSET_COMMIT: 3}, set()

    def refuse(api: int) -> Callable[[Any, Any], int | None]:
        def handler(request: Any, connection: Any) -> int | None:
            body = request.body
            members.add(body.groups[0].member_id if api == OFFSET_FETCH else body.member_id)
            refusals[api] -= 1
            return STALE_MEMBER_EPOCH if refusals[api] >= 0 else None

        return handler

    with DevBroker(**{"group.consumer.heartbeat.interval.ms": 100}) as broker:
        broker.create_topic("t", 1)
        commit_alone(broker.bootstrap_servers, group, tp, 0)
        options = {"group_id": group, "group_protocol": "consumer", "enable_auto_commit": False}
        for api in (OFFSET_FETCH, OFFSET_COMMIT):
            broker.intercept(api, refuse(api))
        with KafkaConsumer("t", bootstrap_servers=broker.bootstrap_servers, **options) as consumer:
            from penstock import KafkaProducer

            with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
                for number in range(10):
                    producer.send("t", b"%d" % number)
            assert read_from(consumer) == 0
            me = consumer.group_metadata()
            consumer.commit({tp: 7})
            assert broker.committed(group) == {("t", 0): 7}
            assert consumer.committed(tp).offset == 7
            assert consumer.group_metadata() == me, "it stayed a member all the time"
        assert members == {me.member_id}
        assert refusals[OFFSET_FETCH] < -1 and refusals[OFFSET_COMMIT] == -1


class OtherEpoch:
    """Changes the member epoch of so many requests to the broker on their way, which then answers STALE_MEMBER_EPOCH.

    Source of the layout: OffsetFetchRequest.json, where the epoch follows the member id, and OffsetCommitRequest.json, where it stands
    before the id's length.
    """

    def __init__(self, member_id: str, times: int) -> None:
        self.left = {OFFSET_FETCH: times, OFFSET_COMMIT: times}
        self.seen: Counter[int] = Counter()
        self._member_id = member_id.encode()

    def __call__(self, direction: str, data: bytes) -> bytes:
        api = struct.unpack_from(">h", data, 4)[0] if direction == TO_SERVER and len(data) > 6 else -1
        found = data.find(self._member_id)
        if api not in self.left or found < 0:
            return data
        self.seen[api] += 1
        at, by = (found + len(self._member_id), -1) if api == OFFSET_FETCH else (found - 5, 1)
        epoch = struct.unpack_from(">i", data, at)[0]
        if epoch <= 0 or self.left[api] == 0:
            return data
        self.left[api] -= 1
        return data[:at] + struct.pack(">i", epoch + by) + data[at + 4 :]


def test_18_stale_epoch_on_real_brokers(
    kafka: RealKafka, kafka_proxies: dict[int, Proxy], topic: str, unique: Callable[[str], str]
) -> None:
    kafka.create_topic(topic, 1)
    kafka.produce(topic, [(None, b"%d" % n) for n in range(10)])
    group, tp = unique("group"), TopicPartition(topic, 0)
    commit_alone(kafka.bootstrap_servers, group, tp, 4)
    kafka.configure_group(group, consumer_heartbeat_interval_ms=200)
    options = {"group_id": group, "group_protocol": "consumer", "enable_auto_commit": False}
    with KafkaConsumer(topic, bootstrap_servers=kafka.proxied_bootstrap_servers, **options) as consumer:
        rewrite = OtherEpoch(consumer._core.membership._member_id, 2)
        for proxy in kafka_proxies.values():
            proxy.rewrite = rewrite
        assert read_from(consumer) == 4, "auto.offset.reset, which is latest, was not asked"
        me = consumer.group_metadata()
        consumer.commit({tp: 7})
        assert kafka.committed(group, topic) == {0: 7}
        assert consumer.group_metadata() == me
    assert rewrite.left == {OFFSET_FETCH: 0, OFFSET_COMMIT: 0}, "every one of them was refused"
    assert rewrite.seen[OFFSET_FETCH] >= 3 and rewrite.seen[OFFSET_COMMIT] == 3


# ------------------------------------------------------------ for as long as one likes


class Churn:
    """Members come, leave, hang and are held in their listeners, in any order. One seed, one order."""

    def __init__(self, kafka: RealKafka, topic: str, group: str, protocol: str, seed: int) -> None:
        self.random = random.Random(seed)
        self.crew: list[Polling] = []
        self.here: list[Polling] = []
        self.places = places_of(topic, 6)
        self.done: Counter[str] = Counter()
        self._bootstrap, self._topic = kafka.bootstrap_servers, topic
        self._options = {**member_options(kafka, group, protocol), "max_poll_interval_ms": 2_000}
        self._stack = contextlib.ExitStack()

    def step(self) -> None:
        what = self.random.choice(("come", "leave", "hang", "rest") if len(self.here) < 5 else ("leave",))
        if what == "come" or len(self.here) < 2:
            what = "come"
            one = Polling(
                f"m{len(self.crew)}",
                self._bootstrap,
                [self._topic],
                revoked=self._dawdle,
                handle=self._handle,
                **self._options,
            )
            self.crew.append(one)
            self.here.append(self._stack.enter_context(one))
        elif what == "leave":
            self.here.pop(self.random.randrange(len(self.here))).stop()
        elif what == "hang":
            self.hangs = self.random.choice(self.here).name
        else:
            until(self.here, lambda: shared_out(self.here, self.places), "at rest")
        self.done[what] += 1
        time.sleep(self.random.random())

    hangs = ""

    def _handle(self, one: Polling, records: Any) -> None:
        if self.hangs == one.name:
            self.hangs = ""
            time.sleep(5)  # idleness is noticed within twice the interval
        one.commit()

    def _dawdle(self, one: Polling, partitions: list[TopicPartition]) -> None:
        if partitions:
            time.sleep(self.random.random() / 3)

    def __enter__(self) -> Churn:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


@pytest.mark.skipif(not SOAK_SECONDS, reason="set PENSTOCK_SOAK_SECONDS to how long it is to run")
@pytest.mark.timeout(SOAK_SECONDS + 200)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_07_soak(kafka: RealKafka, topic: str, unique: Callable[[str], str], protocol: str) -> None:
    kafka.create_topic(topic, 6)
    seed, ends = random.randrange(1 << 32), time.monotonic() + SOAK_SECONDS
    print("seed", seed)
    group = unique("group")
    with Feed(kafka, topic) as feed, Churn(kafka, topic, group, protocol, seed) as churn:
        while time.monotonic() < ends:
            churn.step()
        feed.stop()
        until(churn.here, lambda: shared_out(churn.here, churn.places), "at rest in the end")
        until(churn.here, lambda: not h.unseen(history_of(churn.crew, feed.acknowledged)), "all is read")
        until(
            churn.here, lambda: kafka.committed(group, topic) == kafka.end_offsets(topic), "all is committed"
        )
    history = history_of(churn.crew, feed.acknowledged)
    print(dict(churn.done), "refused", sum(len(one.refused) for one in churn.crew))
    assert [one.error for one in churn.crew if one.error] == []
    assert h.offsets_agree(history) == [] and h.contiguous(history) == []
    assert h.only_while_owned(history) == [] and h.owned_by_one_at_a_time(history) == []
    assert h.never_goes_back(all_stored_commits(kafka, group, topic)) == []
