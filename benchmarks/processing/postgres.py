"""Rows into PostgreSQL: the sink beside COPY fed with ready-made bytes, and what tutorials show. Two short text columns."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable

import psycopg
from tools.postgres import RealPostgres

from penstock import ConsumerRecords, KafkaConsumer, PostgresSink, Processor, TopicPartition

BATCH = 50_000
THROUGH = "PostgresSink in a Processor, from the broker"


def read(bootstrap: str, topic: str, count: int) -> list[ConsumerRecords]:
    """Batches as a processor's sink is given them, polled beforehand: the server is what is measured."""
    with KafkaConsumer(bootstrap_servers=bootstrap, max_poll_records=BATCH) as consumer:
        partitions = [TopicPartition(topic, info.partition) for info in consumer.partitions_for(topic)]
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        batches: list[ConsumerRecords] = []
        waiting: list[ConsumerRecords] = []
        read = 0
        while read < count:
            waiting.append(consumer.poll(1000))
            read += len(waiting[-1])
            if read >= count or sum(map(len, waiting)) >= BATCH:
                batches.append(ConsumerRecords.concat(waiting))
                waiting = []
        return batches


def sink(dsn: str, batches: list[ConsumerRecords]) -> int:
    store = PostgresSink(dsn, "rows", {"key": "key", "value": "value"})
    store.open(uuid.uuid4().hex)
    store.assigned({tp for batch in batches for tp in batch.partitions})
    for batch in batches:
        store.write(batch)
    store.close()
    return store.rows


def through_processor(bootstrap: str, topic: str, dsn: str, count: int) -> float:
    """Rows a second from the broker to the table, from the first row that is stored to the last."""
    store = PostgresSink(dsn, "rows", {"key": "key", "value": "value"})
    config = {"bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest"}
    processor = Processor(config, drain_timeout="1s", max_buffered_records=200_000)
    processor.sink(topic, sink=store)
    running = threading.Thread(target=processor.run)
    running.start()
    while not store.rows:
        time.sleep(0.0005)
    began_s, before = time.perf_counter(), store.rows
    while store.rows < count and running.is_alive():
        time.sleep(0.0005)
    rate = (store.rows - before) / (time.perf_counter() - began_s)
    processor.stop()
    running.join()
    return rate


def copy_write_row(dsn: str, batches: list[ConsumerRecords]) -> int:
    count = 0
    with psycopg.connect(dsn) as connection:
        for batch in batches[:2]:
            with connection.cursor().copy("COPY rows (key, value) FROM STDIN") as copy:
                for record in batch:
                    copy.write_row((record.key.decode(), record.value.decode()))
            connection.commit()
            count += len(batch)
    return count


def executemany(dsn: str, batches: list[ConsumerRecords]) -> int:
    some = batches[0][:20_000]
    with psycopg.connect(dsn) as connection:
        rows = [(record.key.decode(), record.value.decode()) for record in some]
        connection.cursor().executemany("INSERT INTO rows (key, value) VALUES (%s, %s)", rows)
    return len(some)


def one_connection_per_record(dsn: str, batches: list[ConsumerRecords]) -> int:
    some = batches[0][:500]
    for record in some:
        with psycopg.connect(dsn) as connection:
            connection.execute(
                "INSERT INTO rows (key, value) VALUES (%s, %s)", (record.key.decode(), record.value.decode())
            )
    return len(some)


WAYS: dict[str, Callable[[str, list[ConsumerRecords]], int]] = {
    "PostgresSink, exactly once": sink,
    "COPY, write_row": copy_write_row,
    "executemany": executemany,
    "one connection per record": one_connection_per_record,
}


def measure(bootstrap: str, topic: str, whole: int, count: int, rounds: int) -> dict[str, list[float]]:
    """Rows per second of each way, each round; COPY of ready-made bytes with them, and a processor that reads from the broker itself."""
    batches = read(bootstrap, topic, count)
    ready = [b"".join(record.key + b"\t" + record.value + b"\n" for record in batch) for batch in batches]
    total = sum(map(len, batches))
    found: dict[str, list[float]] = {"COPY, ready-made bytes": [], THROUGH: [], **{name: [] for name in WAYS}}
    server = RealPostgres().start()
    try:
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute("CREATE TABLE rows (key text, value text)")

            def timed(name: str, run: Callable[[], int]) -> None:
                connection.execute("TRUNCATE rows")
                connection.execute("CHECKPOINT")
                begin = time.perf_counter()
                rows = run()
                found[name].append(rows / (time.perf_counter() - begin))
                stored = connection.execute("SELECT count(*) FROM rows").fetchone()
                if stored is None or stored[0] != rows:
                    raise RuntimeError(f"{name}: {stored} rows are there, {rows} were stored")

            def copied() -> int:
                with psycopg.connect(server.dsn) as own:
                    for block in ready:
                        with own.cursor().copy("COPY rows (key, value) FROM STDIN") as copy:
                            copy.write(block)
                        own.commit()
                return total

            for _ in range(rounds):
                timed("COPY, ready-made bytes", copied)
                connection.execute("TRUNCATE rows")
                found[THROUGH].append(through_processor(bootstrap, topic, server.dsn, whole))
                for name, way in WAYS.items():
                    timed(name, lambda: way(server.dsn, batches))  # noqa: B023
    finally:
        server.stop()
    return found
