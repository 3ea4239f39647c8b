"""A process with consumers in it, a thread each: `python -m benchmarks.groups.host '{"client": ...}'`.

JavaHost.java speaks the same. Standard input has commands: `go` makes the consumers and polls, `next` only the next one; `mark`
begins a new measurement of standstills; `count` asks for the records so far; `close` closes all consumers and ends; its end ends
the process at once. Standard output has one event a line: what, the time in ns of CLOCK_MONOTONIC, the consumer's number, and:

ready               everything is imported, `go` may come
opening, polling    just before the constructor, just before the first poll
assigned, revoked   with partitions, from the listener
first               the first record of a partition since it was assigned
seen                every partition that was expected has brought a record to some consumer
count               records
closing, closed     around close()
gap                 after `closed`: partition, a time in ns without a record of it since `mark` (10 ms or longer), when that ended
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

POLL_MS = 1_000
NOTED_NS = 10_000_000

_writing = threading.Lock()


class Seat:
    """One consumer's place. Its thread alone writes, but for `marked_ns`."""

    def __init__(self, host: Host, number: int) -> None:
        self.host = host
        self.number = number
        self.records = 0
        self.marked_ns = 0
        self._fresh: set[int] = set()
        self._last_ns: dict[int, int] = {}
        self._gaps: list[tuple[int, int, int]] = []

    def say(self, what: str, *rest: object) -> None:
        say(what, time.monotonic_ns(), self.number, *rest)

    # A listener in the shape of penstock's
    def on_partitions_assigned(self, partitions: Iterable[Any]) -> None:
        numbers = [tp.partition for tp in partitions]
        self._fresh.update(numbers)
        self.say("assigned", *numbers)

    def on_partitions_revoked(self, partitions: Iterable[Any]) -> None:
        numbers = [tp.partition for tp in partitions]
        self._fresh.difference_update(numbers)
        self.say("revoked", *numbers)

    def arrived(self, partitions: Sequence[int], records: int) -> None:
        """One poll's records, and the partitions they are of."""
        now_ns = time.monotonic_ns()
        self.records += records
        for partition in partitions:
            if partition in self._fresh:
                self._fresh.discard(partition)
                say("first", now_ns, self.number, partition)
            since_ns = max(self._last_ns.get(partition, 0), self.marked_ns)
            if self.marked_ns and now_ns - since_ns >= NOTED_NS:
                self._gaps.append((partition, now_ns - since_ns, now_ns))
            self._last_ns[partition] = now_ns
        if self.host.missing:
            self.host.note_seen(self, partitions)

    def mark(self) -> None:
        self.marked_ns = time.monotonic_ns()

    def tell_gaps(self) -> None:
        for gap in self._gaps:
            self.say("gap", *gap)


class Host:
    """What the order says, and the threads. `missing`: how many (consumer or none, partition) are still to bring a record."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.stop = threading.Event()
        self.seats = [Seat(self, number) for number in range(order["consumers"])]
        self.missing: int = order["expected"]
        self._seen: set[tuple[int, int]] = set()
        self._threads: list[threading.Thread] = []

    def note_seen(self, seat: Seat, partitions: Sequence[int]) -> None:
        own = seat.number if self.order["own_groups"] else -1
        with _writing:
            self._seen.update((own, partition) for partition in partitions)
            done = len(self._seen) >= self.missing
            if done:
                self.missing = 0
        if done:
            seat.say("seen")

    def config(self, seat: Seat) -> dict[str, Any]:
        config = {"bootstrap.servers": self.order["bootstrap"], **self.order["config"]}
        if self.order["group"]:
            config["group.id"] = self.order["group"] + (f"-{seat.number}" if self.order["own_groups"] else "")
        return config

    def go(self, loop: Callable[[Host, Seat], None], count: int) -> None:
        """Start the next `count` consumers."""
        for seat in self.seats[len(self._threads) :][:count]:
            thread = threading.Thread(target=self._run, args=(loop, seat), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self, loop: Callable[[Host, Seat], None], seat: Seat) -> None:
        try:
            loop(self, seat)
        except BaseException as error:
            seat.say("failed", type(error).__name__, str(error).replace("\n", " "))

    def close(self) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join()
        for seat in self.seats:
            seat.tell_gaps()


def say(what: str, now_ns: int, number: int, *rest: object) -> None:
    line = " ".join(map(str, (what, now_ns, number, *rest))) + "\n"
    with _writing:
        sys.stdout.write(line)
        sys.stdout.flush()


def penstock(host: Host, seat: Seat) -> None:
    from penstock import KafkaConsumer, TopicPartition

    order = host.order
    seat.say("opening")
    consumer = KafkaConsumer(**host.config(seat))
    if order["by_hand"]:
        consumer.assign([TopicPartition(order["topic"], number) for number in range(order["by_hand"])])
    else:
        consumer.subscribe([order["topic"]], listener=seat)
    seat.say("polling")
    while not host.stop.is_set():
        records = consumer.poll(timeout=POLL_MS)
        if records:
            for record in records:
                _ = record.value
            seat.arrived([tp.partition for tp in records.partitions], len(records))
    seat.say("closing")
    consumer.close()
    seat.say("closed")


def confluent(host: Host, seat: Seat) -> None:
    from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

    order = host.order
    config = host.config(seat)
    config.setdefault("group.id", "by-hand")
    seat.say("opening")
    consumer = Consumer(config)
    if order["by_hand"]:
        numbers = range(order["by_hand"])
        consumer.assign([TopicPartition(order["topic"], number, OFFSET_BEGINNING) for number in numbers])
    else:
        consumer.subscribe(
            [order["topic"]],
            on_assign=lambda _, partitions: seat.on_partitions_assigned(partitions),
            on_revoke=lambda _, partitions: seat.on_partitions_revoked(partitions),
        )
    seat.say("polling")
    while not host.stop.is_set():
        message = consumer.poll(POLL_MS / 1000)
        if message is None:
            continue
        if (error := message.error()) is not None:
            seat.say("error", str(error).replace("\n", " "))
            continue
        message.value()
        seat.arrived([message.partition()], 1)
    seat.say("closing")
    consumer.close()
    seat.say("closed")


LOOPS = {"penstock": penstock, "confluent-kafka": confluent}


def main() -> None:
    # kio imports hypothesis where it is installed, as it is here for the tests; a user's environment does not have it.
    sys.modules["hypothesis"] = None  # type: ignore[assignment]
    order = json.loads(sys.argv[1])
    if order["client"] == "penstock":
        from penstock import KafkaConsumer  # noqa: F401  (which imports all the rest; the package alone does not)
    else:
        import confluent_kafka  # noqa: F401
    host = Host(order)
    say("ready", time.monotonic_ns(), 0)
    for line in sys.stdin:
        command = line.strip()
        if command in ("go", "next"):
            host.go(LOOPS[order["client"]], 1 if command == "next" else order["consumers"])
        elif command == "mark":
            for seat in host.seats:
                seat.mark()
        elif command == "count":
            say("count", time.monotonic_ns(), 0, sum(seat.records for seat in host.seats))
        elif command == "close":
            host.close()
            say("bye", time.monotonic_ns(), 0)
            break
    os._exit(0)  # consumers that were not closed on purpose: nothing of them is to run any more


if __name__ == "__main__":
    main()
