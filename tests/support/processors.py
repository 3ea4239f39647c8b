"""Processors in processes of their own, for tests that kill them: python -m tests.support.processors copy|store|mail|spool ...

Each prints a line for each hundred records that it has begun, so that a test can kill it in the midst of work.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from penstock import (
    Deduplicate,
    HttpSink,
    Output,
    PostgresSink,
    Processor,
    Retry,
    RetryTopic,
    Skip,
    Spool,
    SqliteSink,
    SqliteStore,
)

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def child(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """One process; killed at the end if it still runs."""
    command = [sys.executable, "-m", "tests.support.processors", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def ended(process: subprocess.Popen[bytes], how: signal.Signals, timeout_s: float = 30.0) -> str:
    """Send the signal and wait for the end; what it wrote to its error output."""
    process.send_signal(how)
    _, errors = process.communicate(timeout=timeout_s)
    return errors.decode(errors="replace")


def config_of(bootstrap_servers: str, group: str) -> dict[str, Any]:
    return {
        "bootstrap.servers": bootstrap_servers,
        "group.id": group,
        "auto.offset.reset": "earliest",
        "session.timeout.ms": 6_000,
        "heartbeat.interval.ms": 500,
        "fetch.max.wait.ms": 50,
        "max.poll.records": 100,
        "request.timeout.ms": 10_000,
    }


def copy(bootstrap_servers: str, group: str, source: str, target: str) -> None:
    """Each record of `source` to the same partition of `target`, by transactions."""
    processor = Processor(config_of(bootstrap_servers, group), exactly_once=True, commit_interval="20ms")

    @processor.handler(source, order_by="key", concurrency=50, output=target)
    async def handle(record: Any) -> Output:
        await asyncio.sleep(0.001)
        return Output(record.value, key=record.key, partition=record.partition)

    processor.run()


def sort_out(bootstrap_servers: str, group: str, source: str, target: str) -> None:
    """Each record of `source` as JSON to `target`; of ten one is a dead letter, and one goes by a retry topic."""
    processor = Processor(
        config_of(bootstrap_servers, group) | {"session.timeout.ms": 1_000, "heartbeat.interval.ms": 200},
        exactly_once=True,
        commit_interval="20ms",
        value_serializer=lambda value: json.dumps(value).encode(),
    )

    @processor.handler(
        source,
        order_by=None,
        concurrency=50,
        output=target,
        dead_letter=f"{target}.dlq",
        on_error={OSError: RetryTopic(f"{target}.later", delay="10ms", attempts=2)},
    )
    async def handle(record: Any) -> Output:
        await asyncio.sleep(0.001)
        number = int(record.value)
        if number % 10 == 0:
            raise ValueError(f"{number} is never right")
        if number % 10 == 1 and record.topic == source:
            raise OSError(f"{number} comes right later")
        return Output({"number": number}, key=record.key)

    processor.run()


def store(bootstrap_servers: str, group: str, topic: str, dsn: str) -> None:
    """Each record of `topic` as a row of the table `copies`."""
    columns = {"place": "partition", "kafka_offset": "offset", "body": "value"}
    sink = PostgresSink(dsn, "copies", columns, retry_for_s=60)
    processor = Processor(config_of(bootstrap_servers, group), commit_interval="50ms")
    processor.sink(topic, sink=sink, batch=200)
    processor.run()


def mail(bootstrap_servers: str, group: str, topic: str, path: str, effects: str) -> None:
    """Each record of `topic` has an effect that no transaction holds: a line in a file, its id."""
    deduplicate = Deduplicate(SqliteStore(path), lease="1s", namespace="mails")
    # A static member takes the place of the one that was killed at once.
    config = config_of(bootstrap_servers, group) | {"group.instance.id": "one"}
    processor = Processor(config, commit_interval="20ms")
    lines = os.open(effects, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    @processor.handler(
        topic, concurrency=20, deduplicate=deduplicate, retry=Retry(attempts=None, backoff="5ms")
    )
    async def handle(record: Any) -> None:
        await asyncio.sleep(random.random() * 0.02)
        if random.random() < 0.05:
            raise ConnectionError("before the effect")
        os.write(lines, f"{deduplicate.id_of(record)}\n".encode())
        await asyncio.sleep(random.random() * 0.005)

    processor.run()


def spool(bootstrap_servers: str, group: str, topic: str, folder: str, notes: str, options: str) -> None:
    """Notes each record as `partition offset attempts-of-this-run` in the file `notes`. `options` is JSON: what fails, what hangs."""
    wanted = json.loads(options)
    if "most_file_bytes" in wanted:  # as a full disk has it: EFBIG instead of ENOSPC
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (wanted["most_file_bytes"],) * 2)
    config = config_of(bootstrap_servers, group) | {"group.instance.id": "1", "heartbeat.interval.ms": 100}
    processor = Processor(
        config,
        commit_interval=wanted.get("commit_interval", "50ms"),
        max_buffered_records=wanted.get("max_buffered_records", 10_000),
        spool=Spool(folder, max_bytes=wanted.get("max_bytes", "64MB")),
    )
    out = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    @processor.handler(
        topic,
        concurrency=wanted.get("concurrency", 20),
        retry=Retry(attempts=5, backoff=wanted.get("backoff", "1ms"), then=Skip()),
    )
    async def handle(record: Any) -> None:
        what = (record.value or b"").decode()
        if what == "hangs" and wanted.get("hangs"):
            await asyncio.sleep(1000)
        os.write(out, f"{record.partition} {record.offset} {what}\n".encode())
        await asyncio.sleep(wanted.get("takes_s", 0))
        if what == "fails":
            raise ConnectionError

    processor.run()


def store_sqlite(bootstrap_servers: str, group: str, topic: str, path: str) -> None:
    """Each record of `topic` as a row of the table `copies` of a file."""
    sink = SqliteSink(path, "copies", {"place": "partition", "kafka_offset": "offset", "body": "value"})
    _run_quickly(bootstrap_servers, group, topic, sink)


def post(bootstrap_servers: str, group: str, topic: str, url: str, batch: str) -> None:
    """Each record of `topic` to a server."""
    _run_quickly(bootstrap_servers, group, topic, HttpSink(url, batch=int(batch), timeout_s=2))


def _run_quickly(bootstrap_servers: str, group: str, topic: str, sink: Any) -> None:
    config = config_of(bootstrap_servers, group) | {"session.timeout.ms": 1_000, "heartbeat.interval.ms": 100}
    processor = Processor(config, commit_interval="50ms")
    processor.sink(topic, sink=sink, batch=200)
    processor.run()


if __name__ == "__main__":
    {
        "copy": copy,
        "sort_out": sort_out,
        "store": store,
        "store-sqlite": store_sqlite,
        "post": post,
        "mail": mail,
        "spool": spool,
    }[sys.argv[1]](*sys.argv[2:])
