"""Records that flow steadily, from a process of its own: `python -m benchmarks.groups.feeder '{"topic": ...}'`.

One producer, all partitions in turn, `per_second` records in all, until `count` (0: until it is ended).
"""

from __future__ import annotations

import itertools
import json
import sys
import time

TICK_S = 0.005
VALUE = b"v" * 100


def feed(bootstrap: str, topic: str, partitions: int, per_second: int, count: int) -> None:
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0, "acks": 1, "log_level": 3})
    turn = itertools.cycle(range(partitions))
    begin_s = time.monotonic()
    sent = 0
    while not count or sent < count:
        due = int((time.monotonic() - begin_s) * per_second) + 1
        if count:
            due = min(due, count)
        while sent < due:
            producer.produce(topic, VALUE, b"key", next(turn))
            sent += 1
        producer.poll(0)
        time.sleep(TICK_S)
    producer.flush(60)


if __name__ == "__main__":
    feed(**json.loads(sys.argv[1]))
