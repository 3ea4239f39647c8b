"""penstock consume: places, formats, groups, pipes and signals."""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import sys

import pytest

from penstock import Admin, DevBroker, KafkaProducer
from tests.cli.conftest import START, TIMEOUT_S, CommandLine

BASE_MS = 1_700_000_000_000


@pytest.fixture
def orders(broker: DevBroker, producer: KafkaProducer) -> str:
    """A topic of two partitions with the values 0 to 9 in each, a second apart."""
    broker.create_topic("orders", partitions=2)
    for number in range(10):
        for partition in (0, 1):
            producer.send(
                "orders",
                f"{partition}.{number}",
                f"k{number}",
                partition=partition,
                timestamp_ms=BASE_MS + number * 1000,
            )
    producer.flush()
    return "orders"


def test_text(penstock: CommandLine, orders: str) -> None:
    assert penstock("consume", orders, "-e", "-p", "0").stdout.splitlines() == [f"0.{n}" for n in range(10)]
    keyed = penstock("consume", orders, "-e", "-p", "0", "-k", " = ", "-n", "2").stdout
    assert keyed == "k0 = 0.0\nk1 = 0.1\n"


def test_bytes_pass_as_they_are(penstock: CommandLine, broker: DevBroker, producer: KafkaProducer) -> None:
    broker.create_topic("raw")
    producer.send("raw", b"\xff\x00\r").result(TIMEOUT_S)
    producer.send("raw", None, b"gone").result(TIMEOUT_S)
    assert penstock.raw("consume", "raw", "-e").stdout == b"\xff\x00\r\nnull\n"


def test_json(penstock: CommandLine, broker: DevBroker, producer: KafkaProducer) -> None:
    broker.create_topic("events")
    producer.send("events", "süß", "k", headers=[("h", b"1"), ("n", None)], timestamp_ms=BASE_MS).result(
        TIMEOUT_S
    )
    producer.send("events", b"\xff\xfe", None, timestamp_ms=BASE_MS + 1).result(TIMEOUT_S)
    producer.send("events", None, "k", timestamp_ms=BASE_MS + 2).result(TIMEOUT_S)
    first, second, third = map(
        json.loads, penstock("consume", "events", "-e", "-f", "json").stdout.splitlines()
    )
    assert first == {
        "topic": "events", "partition": 0, "offset": 0, "timestamp": BASE_MS, "key": "k", "value": "süß",
        "headers": [["h", "1"], ["n", None]],
    }  # fmt: skip
    assert second["value"] == {"base64": "//4="} and second["key"] is None
    assert third["value"] is None and third["offset"] == 2


@pytest.mark.parametrize(
    ("place", "first"),
    [
        ("beginning", 0),
        ("7", 7),
        ("-3", 7),
        ("-300", 0),
        ("10", None),
        ("999", None),
        ("end", None),
        (datetime.datetime.fromtimestamp(BASE_MS / 1000 + 4, datetime.UTC).isoformat(), 4),
        (datetime.datetime.fromtimestamp(BASE_MS / 1000 + 3.5).isoformat(), 4),
        ("2099-01-01", None),
    ],
)
def test_from(penstock: CommandLine, orders: str, place: str, first: int | None) -> None:
    expected = [] if first is None else [f"1.{n}" for n in range(first, 10)]
    assert penstock("consume", orders, "-e", "-p", "1", "--from", place).stdout.splitlines() == expected


def test_count(penstock: CommandLine, orders: str) -> None:
    assert len(penstock("consume", orders, "-n", "7").stdout.splitlines()) == 7


def test_a_group_goes_on_where_it_committed(penstock: CommandLine, broker: DevBroker, orders: str) -> None:
    first = penstock("consume", orders, "--group", "audit", "-n", "7").stdout.splitlines()
    assert sum(broker.committed("audit").values()) == 7
    second = penstock("consume", orders, "--group", "audit", "-e").stdout.splitlines()
    assert sorted(first + second) == sorted(f"{p}.{n}" for p in (0, 1) for n in range(10))
    assert broker.committed("audit") == {("orders", 0): 10, ("orders", 1): 10}


def test_wrong_calls(penstock: CommandLine, orders: str) -> None:
    for group in ((), ("--group", "g")):
        assert "no topic 'nothing'" in penstock("consume", "nothing", *group, code=1).stderr
    assert penstock("topics", "list").stdout.split() == [orders], "looking for a topic must not create it"
    assert "no partition 2" in penstock("consume", orders, "-p", "2", code=1).stderr
    assert "beginning" in penstock("consume", orders, "--from", "yesterday", code=2).stderr
    penstock("consume", orders, "--group", "g", "--from", "5", code=2)
    penstock("consume", orders, "--group", "g", "-p", "0", code=2)
    penstock("consume", orders, "-n", "0", code=2)


def test_head_ends_it_quietly(penstock: CommandLine, orders: str) -> None:
    """Whether a write fails, or nothing is left to write when `head` goes: it ends, without a word."""
    command = f'"{sys.executable}" -c "$START" consume {orders} | head -n 1; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        env={**penstock.environment, "START": START},
        timeout=TIMEOUT_S,
        check=True,
    )
    line, code = done.stdout.splitlines()
    assert line in ("0.0", "1.0")
    assert (code, done.stderr) == ("0", "")


def test_a_group_does_not_commit_what_nobody_read(
    penstock: CommandLine, broker: DevBroker, orders: str
) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb") as closed_pipe:
        done = subprocess.run(
            [sys.executable, "-c", START, "consume", orders, "--group", "audit", "--exit-at-end"],
            stdout=closed_pipe, stderr=subprocess.PIPE, env=penstock.environment, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert sum(broker.committed("audit").values()) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_leave_the_group(
    penstock: CommandLine, broker: DevBroker, orders: str, number: signal.Signals, code: int
) -> None:
    process = penstock.start("consume", orders, "--group", "audit")
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(20)]
    process.send_signal(number)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, out, err) == (code, b"", b"")
    assert len(set(lines)) == 20
    with Admin(bootstrap_servers=broker.bootstrap_servers) as admin:
        assert admin.describe_group("audit").members == ()


def test_an_idle_reader_that_goes_is_noticed(penstock: CommandLine, orders: str) -> None:
    process = penstock.start("consume", orders)
    assert process.stdout is not None
    for _ in range(20):
        process.stdout.readline()
    process.stdout.close()
    assert process.wait(TIMEOUT_S) == 0
