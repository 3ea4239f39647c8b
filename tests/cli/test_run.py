"""penstock run: processes of a group that come back, standbys, probes, signals."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock import DevBroker, KafkaConsumer, KafkaProducer, TopicPartition
from tests.cli.conftest import START, CommandLine

WAIT_S = 40.0
RECORDS = 400

APP = """
import asyncio, os
from penstock import Processor

processor = Processor({{
    'bootstrap.servers': {servers!r}, 'group.id': {group!r}, 'auto.offset.reset': 'earliest',
    'session.timeout.ms': 6000, 'heartbeat.interval.ms': 100, 'max.poll.records': 10,
}}, commit_interval='50ms')

@processor.handler({topic!r}, concurrency=4)
async def handle(record):
    await asyncio.sleep(0.01)
    with open({seen!r}, 'a') as out:
        out.write(f'{{os.getpid()}} {{record.partition}} {{record.offset}}\\n')
"""


class App:
    """A folder with app.py, and the topic that it handles."""

    def __init__(self, broker: DevBroker, folder: Path) -> None:
        self.topic, self.group = f"t-{uuid.uuid4().hex[:8]}", f"g-{uuid.uuid4().hex[:8]}"
        self.seen = folder / "seen"
        self.seen.touch()
        self.folder = folder
        self.broker = broker
        broker.create_topic(self.topic, partitions=4)
        servers = broker.bootstrap_servers
        text = APP.format(servers=servers, group=self.group, topic=self.topic, seen=str(self.seen))
        (folder / "app.py").write_text(text)

    def produce(self, count: int = RECORDS) -> None:
        with KafkaProducer(bootstrap_servers=self.broker.bootstrap_servers) as producer:
            for number in range(count):
                producer.send(self.topic, value=b"%d" % number, key=b"k%d" % number)

    def handled(self) -> set[tuple[str, ...]]:
        return {
            tuple(line.split()[1:]) for line in self.seen.read_text().splitlines() if line.count(" ") == 2
        }

    def pids(self) -> set[int]:
        return {int(line.split()[0]) for line in self.seen.read_text().splitlines() if line.count(" ") == 2}

    def committed(self) -> int:
        with KafkaConsumer(bootstrap_servers=self.broker.bootstrap_servers, group_id=self.group) as consumer:
            found = consumer.committed([TopicPartition(self.topic, number) for number in range(4)])
        return sum(entry.offset for entry in found.values() if entry is not None)

    @contextlib.contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        command = [sys.executable, "-c", START, "run", "app:processor", *arguments]
        with (self.folder / "log").open("w") as log:
            process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, text=True)
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(20)
                if process.poll() is None:
                    process.kill()
                    process.wait()

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + WAIT_S
        while not (found := condition()):
            assert time.monotonic() < deadline, f"in vain: {what}\n{self.log()}"
            time.sleep(0.05)
        return found


@pytest.fixture
def app(broker: DevBroker, tmp_path: Path) -> App:
    return App(broker, tmp_path)


def probe(log: str, path: str) -> tuple[int, dict[str, Any]]:
    address = re.search(r"probes: (http://\S+)/ready", log)
    assert address is not None
    try:
        with urllib.request.urlopen(address[1] + path, timeout=5) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_one_process_handles_and_ends_in_order(app: App) -> None:
    app.produce()
    with app.running("--probe-port", "0") as process:
        app.until(lambda: "probes:" in app.log() and probe(app.log(), "/ready")[0] == 200, "ready")
        assert probe(app.log(), "/live")[0] == 200
        app.until(lambda: len(app.handled()) == RECORDS, "all handled")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, app.log()
    assert app.committed() == RECORDS


def test_an_instance_that_is_killed_is_replaced_and_nothing_is_lost(app: App) -> None:
    with app.running("--instances", "2", "--static", "--probe-port", "0") as process:
        app.until(lambda: app.log().count("is ready") == 2, "both are ready")
        app.produce()
        app.until(lambda: len(app.pids()) == 2, "both handle")
        os.kill(min(app.pids()), signal.SIGKILL)
        app.until(lambda: "was killed by signal 9" in app.log(), "it is noticed")
        app.until(lambda: app.log().count("is ready") == 3, "another is ready")
        app.until(lambda: len(app.handled()) == RECORDS, "all handled")
        app.until(lambda: app.committed() == RECORDS, "all committed")
        status, told = probe(app.log(), "/ready")
        assert status == 200 and [row["restarts"] for row in told["instances"]].count(1) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, app.log()


def test_a_standby_takes_the_place_of_an_instance(app: App) -> None:
    with app.running("--standbys", "1", "--probe-port", "0"):
        app.until(
            lambda: "probes:" in app.log() and probe(app.log(), "/ready")[1].get("standbys") == 1, "it waits"
        )
        app.until(lambda: app.log().count("is ready") == 1, "the instance is ready")
        app.produce(40)
        app.until(lambda: len(app.handled()) == 40, "the instance handles")
        os.kill(min(app.pids()), signal.SIGKILL)
        app.until(lambda: "takes its place" in app.log(), "the standby is told")
        app.produce(40)
        app.until(lambda: len(app.handled()) == 80, "the standby handles")
        app.until(lambda: probe(app.log(), "/ready")[1].get("standbys") == 1, "there is another one")


def test_instances_end_when_their_supervisor_is_killed(app: App) -> None:
    with app.running("--instances", "2") as process:
        app.until(lambda: app.log().count("is ready") == 2, "both are ready")
        app.produce(40)
        app.until(lambda: len(app.handled()) == 40, "they handle")
        pids = app.pids()
        process.kill()
        process.wait()
        app.until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "they have ended")


def test_an_app_that_cannot_start_ends_the_command(app: App) -> None:
    (app.folder / "app.py").write_text("raise SystemExit('no database')")
    with app.running("--instances", "2") as process:
        assert process.wait(WAIT_S) == 1
    assert "Giving up" in app.log() and "no database" in app.log()


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("nowhere:processor", "no module 'nowhere'"),
        ("penstock", "MODULE:NAME"),
        ("penstock:Admin", "no Processor"),
    ],
)
def test_what_is_no_processor_is_said(penstock: CommandLine, where: str, text: str) -> None:
    done = penstock("run", where, code=1)
    assert text in done.stderr
