"""penstock produce"""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock import DevBroker
from tests.cli.conftest import CommandLine, read_all


def test_lines_become_values(penstock: CommandLine, broker: DevBroker) -> None:
    broker.create_topic("greetings")
    penstock("produce", "greetings", input="hello\n\nwindows\r\nwithout an end")
    assert read_all(broker, "greetings", 4) == [
        (0, None, b"hello"), (0, None, b""), (0, None, b"windows"), (0, None, b"without an end"),
    ]  # fmt: skip


def test_any_bytes_pass(penstock: CommandLine, broker: DevBroker) -> None:
    broker.create_topic("raw")
    value = bytes(byte for byte in range(256) if byte != ord("\n"))
    penstock("produce", "raw", input=value + b"\n")
    assert read_all(broker, "raw", 1) == [(0, None, value)]


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_a_file_with_every_codec(
    penstock: CommandLine, broker: DevBroker, tmp_path: Path, compression: str
) -> None:
    broker.create_topic("numbers")
    lines = [str(number).encode() for number in range(5_000)]
    file = tmp_path / "numbers.txt"
    file.write_bytes(b"\n".join(lines) + b"\n")
    penstock("produce", "numbers", "--file", str(file), "--compression", compression)
    assert [value for _, _, value in read_all(broker, "numbers", 5_000)] == lines


def test_keys(penstock: CommandLine, broker: DevBroker) -> None:
    broker.create_topic("visits", partitions=3)
    penstock("produce", "visits", "-k", "::", input="alice::1\nbob::2::3\nalice::4\n")
    found = read_all(broker, "visits", 3)
    assert sorted((key, value) for _, key, value in found) == [
        (b"alice", b"1"),
        (b"alice", b"4"),
        (b"bob", b"2::3"),
    ]
    assert len({partition for partition, key, _ in found if key == b"alice"}) == 1


def test_a_line_without_a_separator(penstock: CommandLine, broker: DevBroker) -> None:
    broker.create_topic("visits")
    done = penstock("produce", "visits", "-k", ":", input="alice:1\nbob\ncarol:3\n", code=1)
    assert "line 2" in done.stderr and "'bob'" in done.stderr
    assert read_all(broker, "visits", 1) == [(0, b"alice", b"1")]


def test_a_partition_and_a_rate(penstock: CommandLine, broker: DevBroker) -> None:
    broker.create_topic("orders", partitions=3)
    penstock("produce", "orders", "-p", "2", "--rate", "500", input="a\nb\n")
    assert read_all(broker, "orders", 2) == [(2, None, b"a"), (2, None, b"b")]


def test_what_is_not_stored_is_said(penstock: CommandLine, broker: DevBroker) -> None:
    broker.create_topic("small", config={"max.message.bytes": 200})
    done = penstock("produce", "small", input="fits\n" + "x" * 1000 + "\n", code=1)
    assert "1 records were not stored, 1 were" in done.stderr
    assert "max.message.bytes" in done.stderr


def test_wrong_calls(penstock: CommandLine, tmp_path: Path) -> None:
    penstock("produce", code=2)
    penstock("produce", "orders", "--file", str(tmp_path / "missing"), code=2)
    penstock("produce", "orders", "--compression", "rar", code=2)
    penstock("produce", "orders", "--key-separator", "", code=2)
    assert "compression.type" in penstock("produce", "orders", "-X", "compresion.type=lz4", code=1).stderr
