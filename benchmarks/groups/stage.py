"""Where a scenario plays: a broker, topics that are fed, host processes, and the events that they tell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.kafka.java import compile_java, java_command

from benchmarks.runner import BUILD, HERE, ROOT

CLIENTS = ("penstock", "confluent-kafka", "java")
JAVA_ASSIGNORS = {
    "range": "org.apache.kafka.clients.consumer.RangeAssignor",
    "cooperative-sticky": "org.apache.kafka.clients.consumer.CooperativeStickyAssignor",
}
SESSION_TIMEOUT_MS = 6_000
HEARTBEAT_INTERVAL_MS = 1_750
"""Not a whole part of the session: heartbeats of a group are in step, and a dead member's session would end just when the others ask."""
BROKER = {
    # The consumer protocol's are the broker's to say; those of the classic one are the members'. Both alike.
    "group.consumer.session.timeout.ms": SESSION_TIMEOUT_MS,
    "group.consumer.heartbeat.interval.ms": HEARTBEAT_INTERVAL_MS,
    # 10,000 partitions are not to be looked through twice a second
    "log.retention.check.interval.ms": 300_000,
    "log.cleaner.backoff.ms": 15_000,
    "log.segment.delete.delay.ms": 60_000,
}
MOST_AT_ONCE = 5_000  # partitions that a controller creates for one request; it refuses 10,000
VARIANTS = ("range", "cooperative-sticky", "consumer")
"""Group protocols: the classic one with an assignor, eager or cooperative, and that of KIP-848."""


class StageError(RuntimeError):
    """What was waited for did not come."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line that a host has printed."""

    host: Host
    what: str
    at_ns: int
    number: int
    rest: tuple[str, ...]


def group_settings(client: str, variant: str) -> dict[str, str]:
    """The options of a member; the same for all clients, under the names that they have."""
    settings = {"auto.offset.reset": "earliest", "enable.auto.commit": "true", "group.protocol": "consumer"}
    if variant != "consumer":
        settings |= {
            "group.protocol": "classic",
            "session.timeout.ms": str(SESSION_TIMEOUT_MS),
            "heartbeat.interval.ms": str(HEARTBEAT_INTERVAL_MS),
            "partition.assignment.strategy": JAVA_ASSIGNORS[variant] if client == "java" else variant,
        }
    return settings


@dataclass(eq=False)
class Host:
    """A host process. `owned` and `pending` (assigned, no record yet) are by consumer; the reader thread writes them."""

    stage: Stage
    process: subprocess.Popen[str]
    name: str
    consumers: int
    owned: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    pending: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    events: list[Event] = field(default_factory=list)
    killed: bool = False

    def read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            what, at_ns, number, *rest = line.split()
            self._take(Event(self, what, int(at_ns), int(number), tuple(rest)))
        with self.stage.news:
            self.stage.news.notify_all()

    def _take(self, event: Event) -> None:
        with self.stage.news:
            self.events.append(event)
            partitions = {int(one) for one in event.rest} if event.what in _OF_PARTITIONS else set()
            owned, pending = self.owned[event.number], self.pending[event.number]
            if event.what == "assigned":
                owned |= partitions
                pending |= partitions
            elif event.what == "revoked":
                owned -= partitions
                pending -= partitions
            elif event.what == "first":
                pending -= partitions
            self.stage.news.notify_all()

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def said(self, what: str, since_ns: int = 0) -> list[Event]:
        return [event for event in list(self.events) if event.what == what and event.at_ns >= since_ns]

    def kill(self) -> int:
        """SIGKILL; the time just before it, in ns."""
        now_ns = time.monotonic_ns()
        self.killed = True
        self.process.send_signal(signal.SIGKILL)
        return now_ns

    def close(self) -> None:
        """Have it close its consumers, and wait until it has told what it measured."""
        self.tell("close")
        self.stage.wait(lambda: bool(self.said("bye")), 40, f"{self.name} to close")

    def cpu_s(self) -> float:
        """Processor time of all its threads since it began."""
        return time.clock_gettime(
            (~self.process.pid << 3) | 2
        )  # CPUCLOCK_SCHED of a process, clock_getcpuclockid(3)

    def status(self) -> tuple[int, int]:
        """(resident bytes, threads)."""
        found = {}
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            found[name] = value.split()
        return int(found["VmRSS"][0]) * 1_024, int(found["Threads"][0])


_OF_PARTITIONS = ("assigned", "revoked", "first")


class Stage:
    """One scenario's processes and topics; as a context, it ends them all."""

    def __init__(self, bootstrap: str, quick: bool) -> None:
        self.bootstrap = bootstrap
        self.quick = quick
        self.news = threading.Condition()
        self.hosts: list[Host] = []
        self._cleanup = ExitStack()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts:
            _end(host.process)
        self._cleanup.close()

    def host(
        self,
        client: str,
        topic: str,
        settings: Mapping[str, str],
        *,
        group: str = "",
        own_groups: bool = False,
        by_hand: int = 0,
        consumers: int = 1,
        expected: int = 0,
    ) -> Host:
        """Start a process; its consumers are made by tell("go")."""
        if client == "java":
            command = _java(self.bootstrap, topic, group, own_groups, by_hand, consumers, expected, settings)
        else:
            order = {
                "client": client,
                "bootstrap": self.bootstrap,
                "topic": topic,
                "group": group,
                "own_groups": own_groups,
                "by_hand": by_hand,
                "consumers": consumers,
                "expected": expected,
                "config": dict(settings),
            }
            command = [sys.executable, "-m", "benchmarks.groups.host", json.dumps(order)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("BENCH_DEBUG") else subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
        )
        host = Host(self, process, f"{client} {len(self.hosts)}", consumers)
        self.hosts.append(host)
        threading.Thread(target=host.read, daemon=True).start()
        return host

    def ready(self) -> None:
        """Wait until every host may begin."""
        self.wait(lambda: all(host.said("ready") for host in self.hosts), 60, "the hosts to start")

    def wait(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline_s = time.monotonic() + timeout_s
        with self.news:
            while not condition():
                self._check()
                remaining_s = deadline_s - time.monotonic()
                if remaining_s <= 0:
                    raise StageError(f"waited {timeout_s:.0f} s for {what}; {self._state()}")
                self.news.wait(min(remaining_s, 1.0))

    def _check(self) -> None:
        for host in self.hosts:
            failed = host.said("failed")
            if failed:
                raise StageError(f"{host.name}: {' '.join(failed[0].rest)}")
            if not host.killed and host.process.poll() not in (None, 0):
                raise StageError(f"{host.name} ended with {host.process.returncode}")

    def _state(self) -> str:
        return "; ".join(
            f"{host.name} owns {sum(map(len, host.owned.values()))}, {sum(map(len, host.pending.values()))} silent"
            for host in self.hosts
        )

    @contextmanager
    def feeding(self, topic: str, partitions: int, per_second: int, count: int = 0) -> Iterator[None]:
        order = {
            "bootstrap": self.bootstrap,
            "topic": topic,
            "partitions": partitions,
            "per_second": per_second,
            "count": count,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.groups.feeder", json.dumps(order)], cwd=ROOT
        )
        try:
            yield
        finally:
            _end(process)

    @contextmanager
    def topic(self, partitions: int, one_each: bool = False) -> Iterator[str]:
        """A topic of its own for what is done inside, with one record in each partition if asked for."""
        from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 3})
        name = f"bench-groups-{uuid.uuid4().hex[:8]}"
        made = min(partitions, MOST_AT_ONCE)
        admin.create_topics([NewTopic(name, made, 1)], request_timeout=120)[name].result(120)
        while made < partitions:
            made = min(partitions, made + MOST_AT_ONCE)
            admin.create_partitions([NewPartitions(name, made)], request_timeout=120)[name].result(120)
        try:
            while len(admin.list_topics(name, timeout=30).topics[name].partitions) < partitions:
                time.sleep(0.1)
            if one_each:
                self._fill(name, partitions)
            yield name
        finally:
            admin.delete_topics([name], operation_timeout=60, request_timeout=60)[name].result(60)

    def _fill(self, topic: str, partitions: int) -> None:
        """One record in each partition."""
        from confluent_kafka import Producer

        failed = []
        producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 20, "log_level": 3})
        for number in range(partitions):
            producer.produce(
                topic, b"first", b"key", number, on_delivery=lambda error, _: error and failed.append(error)
            )
        if producer.flush(300) or failed:
            raise StageError(f"{topic} could not be filled: {failed[:1]}")


def new_group() -> str:
    return f"bench-{uuid.uuid4().hex[:8]}"


def prepare() -> None:
    """Build before anything is measured."""
    compile_java([HERE / "java" / "JavaHost.java"], BUILD / "java-host")


def _java(
    bootstrap: str,
    topic: str,
    group: str,
    own_groups: bool,
    by_hand: int,
    consumers: int,
    expected: int,
    settings: Mapping[str, str],
) -> list[str]:
    classes = compile_java([HERE / "java" / "JavaHost.java"], BUILD / "java-host")
    java = java_command("JavaHost", BUILD / "java-host.log", classpath=[classes], jvm_args=["-Xmx1g"])
    order = [bootstrap, topic, group, str(own_groups).lower(), str(by_hand), str(consumers), str(expected)]
    return [*java, *order, *(f"{name}={value}" for name, value in settings.items())]


def _end(process: subprocess.Popen[Any]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait(10)
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
