"""The command line as a process, against an embedded broker."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from penstock import DevBroker, KafkaConsumer, KafkaProducer

TIMEOUT_S = 60

# A test run in a shell's background inherits an ignored SIGINT, and Python then leaves it ignored.
START = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from penstock.cli import main; main()"
)


@dataclass
class CommandLine:
    """Runs `penstock` with the broker's address in its environment."""

    broker: DevBroker
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PENSTOCK_BOOTSTRAP_SERVERS": self.broker.bootstrap_servers,
            "NO_COLOR": "1",
            "TERM": "dumb",
        }

    def __call__(
        self, *arguments: str, input: str | bytes = b"", code: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end; fails unless the exit code is `code` or if there is a traceback."""
        given = input.encode() if isinstance(input, str) else input
        done = self.raw(*arguments, input=given)
        text = subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )
        assert "Traceback" not in text.stderr, text.stderr
        assert text.returncode == code, (
            f"{arguments} ended with {text.returncode}:\n{text.stdout}\n{text.stderr}"
        )
        return text

    def raw(self, *arguments: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-c", START, *arguments],
            input=input,
            capture_output=True,
            env=self.environment,
            timeout=TIMEOUT_S,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command that runs until it is told to end."""
        process = subprocess.Popen(
            [sys.executable, "-c", START, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
        )
        self.running.append(process)
        return process

    def end(self) -> None:
        for process in self.running:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def broker() -> Iterator[DevBroker]:
    with DevBroker() as broker:
        yield broker


@pytest.fixture
def penstock(broker: DevBroker) -> Iterator[CommandLine]:
    command_line = CommandLine(broker)
    try:
        yield command_line
    finally:
        command_line.end()


@pytest.fixture
def producer(broker: DevBroker) -> Iterator[KafkaProducer]:
    with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
        yield producer


def read_all(broker: DevBroker, topic: str, count: int) -> list[tuple[int, bytes | None, bytes | None]]:
    """Partition, key and value of the topic's records, when there are `count`."""
    found: list[tuple[int, bytes | None, bytes | None]] = []
    with KafkaConsumer(
        topic, bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest"
    ) as consumer:
        consumer.assign(range(len(broker.end_offsets(topic))))
        while len(found) < count:
            found += [(r.partition, r.raw_key, r.raw_value) for r in consumer.poll(timeout=1000)]
    assert len(found) == count
    return found
