"""Stores every order of a topic in PostgreSQL. Start as many as there are partitions: they share the work.

python -m examples.demo.store_orders localhost:9092 postgresql://postgres@localhost/shop
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys

import psycopg

from penstock import KafkaConsumer
from penstock.errors import CommitFailedError

INSERT = """
    INSERT INTO orders (topic, partition, "offset", key, value) VALUES (%s, %s, %s, %s, %s)
    ON CONFLICT DO NOTHING
"""


def store_orders(consumer: KafkaConsumer, database: psycopg.Connection) -> None:
    """First the rows, then the offsets: after a crash between the two the records come again, and change nothing."""
    while True:
        records = consumer.poll(timeout=1000)
        if records:
            rows = [(r.topic, r.partition, r.offset, r.key, r.value) for r in records]
            with database.transaction(), database.cursor() as cursor:
                cursor.executemany(INSERT, rows)
            with contextlib.suppress(CommitFailedError):  # a rebalance: the new owner reads them again
                consumer.commit()


def main() -> None:
    parser = argparse.ArgumentParser(description="Store a topic's orders in PostgreSQL")
    parser.add_argument("bootstrap_servers")
    parser.add_argument("dsn")
    parser.add_argument("--topic", default="my-topic")
    parser.add_argument("--group", default="my-group")
    parser.add_argument("--name", default="store-orders")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # unwinds: the consumer leaves its group at once

    config = {
        "bootstrap.servers": given.bootstrap_servers,
        "group.id": given.group,
        "client.id": given.name,
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "key.deserializer": bytes.decode,
        "value.deserializer": bytes.decode,
    }
    with psycopg.connect(given.dsn) as database, KafkaConsumer(given.topic, **config) as consumer:
        store_orders(consumer, database)


if __name__ == "__main__":
    main()
