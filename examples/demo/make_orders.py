"""Produces a stream of orders for some seconds, and prints how many the brokers have acknowledged.

python -m examples.demo.make_orders localhost:9092 --seconds 20 --rate 20000
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import signal
import sys
import time
from collections.abc import Iterator

from penstock import KafkaProducer, RecordMetadata

ITEMS = {"espresso beans": 12.90, "filter papers": 3.20, "moka pot": 34.50, "grinder": 129.00, "cup": 8.75}
CUSTOMERS = 5_000
TICK_S = 0.01


def orders(seed: int) -> Iterator[tuple[str, str]]:
    """Customers and their orders, as JSON, without end."""
    chance = random.Random(seed)
    number = 0
    while True:
        number += 1
        customer = f"customer-{chance.randrange(CUSTOMERS):05}"
        item, price = chance.choice(list(ITEMS.items()))
        order = {
            "order": number,
            "customer": customer,
            "item": item,
            "quantity": chance.randint(1, 5),
            "price": price,
            "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        }
        yield customer, json.dumps(order)


class Deliveries:
    """Counts what is stored. Called in the producer's thread, read after flush()."""

    def __init__(self) -> None:
        self.stored = 0
        self.error: BaseException | None = None

    def __call__(self, _place: RecordMetadata | None, error: BaseException | None) -> None:
        if error is None:
            self.stored += 1
        else:
            self.error = error


def produce(producer: KafkaProducer, topic: str, seconds: float, rate: int) -> Deliveries:
    """About `rate` orders a second, evenly, for `seconds`; the key is the customer, whose orders so stay in order."""
    deliveries = Deliveries()
    stream = orders(seed=1)
    started = time.monotonic()
    sent = 0
    while (passed := time.monotonic() - started) < seconds and deliveries.error is None:
        for _ in range(int(passed * rate) - sent):
            customer, order = next(stream)
            producer.produce(topic, order, customer, on_delivery=deliveries)
            sent += 1
        time.sleep(TICK_S)
    producer.flush()
    return deliveries


def main() -> None:
    parser = argparse.ArgumentParser(description="Produce a stream of orders")
    parser.add_argument("bootstrap_servers")
    parser.add_argument("--topic", default="my-topic")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rate", type=int, default=20_000, help="orders a second (default 20,000)")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    config = {
        "bootstrap.servers": given.bootstrap_servers,
        "client.id": "make-orders",
        "compression.type": "lz4",
        "batch.size": 65_536,
    }
    with KafkaProducer(**config) as producer:
        deliveries = produce(producer, given.topic, given.seconds, given.rate)
    print(deliveries.stored, flush=True)
    if deliveries.error is not None:
        sys.exit(f"an order was not stored: {deliveries.error}")


if __name__ == "__main__":
    main()
