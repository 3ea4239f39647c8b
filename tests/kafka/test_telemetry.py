"""Measurements judged by Apache Kafka: its broker takes the pushes (KIP-714), its Java client has the same names and the same windows."""

from __future__ import annotations

import base64
import math
import random
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tools.kafka.kafka import KafkaCluster, compile_java, java_tool

from penstock import Admin, KafkaProducer, TopicPartition
from penstock.metrics import METRICS, Sensor, Stat, Windows
from tests.support.kafka import RealKafka
from tests.support.telemetry import lag_of, pushing, read_push

pytestmark = pytest.mark.kafka
WAIT_S = 60.0
JAVA = Path(__file__).resolve().parent.parent / "support" / "java"
SOURCES = [JAVA / name for name in ("TelemetryToFile.java", "MetricNames.java", "SensorJudge.java")]


class Push(NamedTuple):
    client_id: str
    instance_id: uuid.UUID
    terminating: bool
    payload: bytes


def pushes_in(file: Path, client_id: str) -> list[Push]:
    """What the plugin wrote of one client so far."""
    found = []
    lines = file.read_text("utf-8").split("\n")[:-1] if file.exists() else []
    for line in lines:
        client, instance, terminating, payload = line.split(" ")
        if client == client_id:
            number = uuid.UUID(bytes=base64.urlsafe_b64decode(instance + "=="))  # as Kafka writes UUIDs
            found.append(Push(client, number, terminating == "true", base64.b64decode(payload)))
    return found


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Java classes of these tests, compiled."""
    return compile_java(SOURCES, tmp_path_factory.mktemp("java"))


@pytest.fixture(scope="module")
def receiver(classes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[KafkaCluster, Path]]:
    """A broker with a plugin that takes clients' telemetry, asking for consumers' every 200 ms; and the plugin's file."""
    file = tmp_path_factory.mktemp("telemetry") / "pushes"
    config = {"metric.reporters": "TelemetryToFile", "penstock.telemetry.file": file}
    with KafkaCluster(1, config, classpath=[classes]) as cluster:
        wanted = ["--alter", "--name", "t", "--metrics", "org.apache.kafka.consumer.", "--interval", "200"]
        java_tool(
            "org.apache.kafka.tools.ClientMetricsCommand",
            ["--bootstrap-server", cluster.bootstrap_servers, *wanted],
        )
        yield cluster, file


def test_a_real_broker_takes_the_pushes(receiver: tuple[KafkaCluster, Path]) -> None:
    cluster, file = receiver
    where = cluster.bootstrap_servers
    with Admin(bootstrap_servers=where) as admin:
        admin.create_topics(["t"])
    with KafkaProducer(bootstrap_servers=where) as producer:
        for n in range(10):
            producer.send("t", b"%d" % n)
        producer.flush()
    tp = TopicPartition("t", 0)
    options = {"bootstrap_servers": where, "client_id": "taken", "client_rack": "r1", "max_poll_records": 4}
    with pushing(**options) as (consumer, metrics, _):
        consumer.assign([tp])
        assert len(consumer.poll(WAIT_S * 1000)) == 4
        instance_id = consumer.client_instance_id(WAIT_S * 1000)
        for _ in range(2):
            now_ms = consumer._core.engine.now_ms()
            consumer._core.engine.post(metrics.commit_finished, now_ms, 5.0)
        until(lambda: (p := pushes_in(file, "taken")) and lag_of(read_push(p[-1].payload)[1], tp) == 6)
        until(lambda: len(pushes_in(file, "taken")) >= 3)
    pushes = until(lambda: (p := pushes_in(file, "taken"))[-1].terminating and p)
    assert {push.instance_id for push in pushes} == {instance_id}
    assert [push.terminating for push in pushes] == [False] * (len(pushes) - 1) + [True]
    read = [read_push(push.payload) for push in pushes]
    assert read[0][0] == {"client_rack": "r1"}
    name = "org.apache.kafka.consumer.coordinator.commit.total"
    commits = [entry for _, told in read for entry in told if entry.name == name]
    assert {entry.kind for entry in commits} == {"delta"}, "Apache Kafka asks for deltas"
    assert sum(entry.value for entry in commits) == 2


def test_a_new_wish_of_a_real_broker_is_learned(receiver: tuple[KafkaCluster, Path]) -> None:
    cluster, file = receiver

    def alter(*words: str) -> None:
        java_tool(
            "org.apache.kafka.tools.ClientMetricsCommand",
            ["--bootstrap-server", cluster.bootstrap_servers, "--name", "more", *words],
        )

    name = "penstock.consumer.coordinator.commit.failed.total"

    def told_names() -> set[str]:
        pushes = pushes_in(file, "learns")
        return {entry.name for entry in read_push(pushes[-1].payload)[1]} if pushes else set()

    with pushing(bootstrap_servers=cluster.bootstrap_servers, client_id="learns"):
        assert name not in until(told_names)
        alter("--alter", "--metrics", "penstock.", "--interval", "200")
        try:
            until(lambda: name in told_names())
        finally:
            alter("--delete")


def test_another_broker_takes_over_when_one_dies(classes: Path, tmp_path: Path) -> None:
    file = tmp_path / "pushes"
    config = {"metric.reporters": "TelemetryToFile", "penstock.telemetry.file": file}
    with KafkaCluster(3, config, classpath=[classes]) as cluster:
        wanted = ["--alter", "--name", "t", "--metrics", "org.apache.kafka.consumer.", "--interval", "200"]
        java_tool(
            "org.apache.kafka.tools.ClientMetricsCommand",
            ["--bootstrap-server", cluster.bootstrap_servers, *wanted],
        )
        with pushing(bootstrap_servers=cluster.bootstrap_servers, client_id="moves") as (consumer, _, _):
            instance_id = consumer.client_instance_id(WAIT_S * 1000)
            until(lambda: pushes_in(file, "moves"))
            for node in list(cluster.nodes)[:2]:
                cluster.kill(node)
                told = len(pushes_in(file, "moves"))
                until(
                    lambda told=told: len(pushes_in(file, "moves")) > told + 1
                )  # one may have been on its way
        assert {push.instance_id for push in pushes_in(file, "moves")} == {instance_id}


# ------------------------------------------------------------ the Java client beside


# These come with what Java has and penstock has not: its threads, its TLS ciphers, its event queues.
NOT_MEASURED = (
    "io-",
    "iotime",
    "select-",
    "successful-authentication-no-reauth",
    "connections",
    "background-event",
    "application-event",
)
NOT_MEASURED += ("unsent-", "time-between-network", "async-")
OF_TOPICS = {"fetch-size-avg", "fetch-size-max", "records-per-request-avg"}


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_names_groups_and_tags_are_those_of_the_java_client(
    kafka: RealKafka, classes: Path, topic: str, protocol: str
) -> None:
    kafka.create_topic(topic)
    kafka.produce(topic, [(b"k", b"v")])
    done = java_tool(
        "MetricNames", [kafka.bootstrap_servers, topic, protocol], classpath=[classes], timeout=WAIT_S
    )
    java = {tuple(line.split(" ")) for line in done.stdout.splitlines() if line.startswith("consumer-")}
    ours = {(m.group, m.name, ",".join(sorted(m.scope.value))) for m in METRICS if not m.own}
    only_classic = {row for row in ours if row[1].startswith(("join-", "sync-"))}
    assert (ours - only_classic if protocol == "consumer" else ours) - java == set()
    missing = {row for row in java - ours if not row[1].startswith(NOT_MEASURED)}
    assert missing == {("consumer-fetch-manager-metrics", name, "topic") for name in OF_TOPICS}


STATS = [
    (Stat.AVG, 1_000.0),
    (Stat.MAX, 1_000.0),
    (Stat.MIN, 1_000.0),
    (Stat.RATE, 1_000.0),
    (Stat.COUNT_RATE, 1_000.0),
    (Stat.COUNT_RATE, 3_600_000.0),
]


def test_windows_compute_what_javas_compute(classes: Path) -> None:
    chance = random.Random(714)
    lines, expected = [], []
    for _ in range(500):
        windows = Windows(chance.randint(1, 4), chance.choice([10, 1_000]))
        now, sensor, words = 0, Sensor(windows), []
        for _ in range(chance.randint(0, 40)):
            now += chance.choice([0, 1, windows.window_ms // 3, windows.window_ms, 3 * windows.window_ms])
            value = chance.randint(-100, 1_000)
            sensor.record(value, now)
            words += [str(now), str(value)]
        now += chance.choice(
            [0, 1, windows.window_ms, windows.window_ms * windows.samples, 10 * windows.window_ms]
        )
        lines.append(" ".join([str(windows.samples), str(windows.window_ms), str(now), *words]))
        expected.append([sensor.measure(stat, now, unit_ms) for stat, unit_ms in STATS])
    done = java_tool("SensorJudge", input="\n".join(lines) + "\n", classpath=[classes])
    answers = [[float(word) for word in line.split()] for line in done.stdout.splitlines()]
    assert len(answers) == len(lines)
    for line, java, ours in zip(lines, answers, expected, strict=True):
        for (stat, _), theirs, mine in zip(STATS, java, ours, strict=True):
            same = (math.isnan(theirs) and math.isnan(mine)) or mine == pytest.approx(theirs)
            assert same, f"{stat}: Java computes {theirs}, penstock {mine}, of {line}"
