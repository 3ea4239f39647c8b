"""A processor with a PostgresSink that kills itself at one step of its talk with PostgreSQL.

python -m tests.support.dying STEP BOOTSTRAP GROUP TOPIC DSN

Everything that psycopg says goes through Connection.wait, once for each answer that is waited for. So there are two steps to each: before
anything of it is sent, and after the answer is there and before anybody knows. STEP 0: it lives.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import psycopg

from penstock import PostgresSink, Processor


def die_at(step: int) -> None:
    """Have this process kill itself there, and print each step's number before."""
    counted = 0
    wait = psycopg.Connection.wait

    def one() -> None:
        nonlocal counted
        counted += 1
        if counted == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def counting(self: Any, *arguments: Any, **options: Any) -> Any:
        one()
        answer = wait(self, *arguments, **options)
        one()
        return answer

    psycopg.Connection.wait = counting  # type: ignore[method-assign]


def main(step: str, bootstrap_servers: str, group: str, topic: str, dsn: str) -> None:
    die_at(int(step))
    config = {
        "bootstrap.servers": bootstrap_servers,
        "group.id": group,
        "group.instance.id": "the-one",  # its successor takes its place at once (KIP-345)
        "auto.offset.reset": "earliest",
        "max.poll.records": 40,
    }
    columns = {"place": "partition", "kafka_offset": "offset", "body": "value"}
    sink = PostgresSink(dsn, "copies", columns, mode="upsert", key=["place", "kafka_offset"])
    processor = Processor(config, commit_interval="20ms")
    processor.sink(topic, sink=sink, batch=40)
    processor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
