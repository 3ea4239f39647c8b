"""python -m examples.demo [--seconds 20] [--rate 20000] [--keep]; KAFKA=host:port and POSTGRES=dsn use servers that are there."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psycopg

from penstock import Admin
from penstock.errors import KafkaError

from . import servers
from .children import Child, DemoError, Family
from .view import Picture, Show, take, view

CONSUMERS = 2
CATCH_UP_S = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make demo",
        description="Orders through Kafka into PostgreSQL: one producer, two consumers of one group, one live table.",
        epilog="KAFKA=host:port and POSTGRES=dsn in the environment use servers that are there.",
    )
    parser.add_argument("--seconds", type=float, default=20, help="how long to produce (default 20)")
    parser.add_argument("--rate", type=int, default=20_000, help="orders a second (default 20,000)")
    parser.add_argument(
        "--keep", action="store_true", help="leave topic, group and rows on KAFKA and POSTGRES"
    )
    given = parser.parse_args()
    if given.keep and not (os.environ.get("KAFKA") and os.environ.get("POSTGRES")):
        parser.error("--keep is for servers that stay: set KAFKA and POSTGRES")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, as Ctrl-C does
    try:
        run(given.seconds, given.rate, keep=given.keep)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except (DemoError, KafkaError, psycopg.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run(seconds: float, rate: int, *, keep: bool) -> None:
    """DemoError unless every record that was produced is stored once and committed."""
    with contextlib.ExitStack() as stack:
        family = Family(Path(tempfile.mkdtemp(prefix="penstock-demo-")))
        stack.callback(family.close)
        place = stack.enter_context(servers.kafka(family, os.environ.get("KAFKA") or None, keep=keep))
        dsn = stack.enter_context(servers.postgres(os.environ.get("POSTGRES") or None, keep=keep))
        admin = stack.enter_context(Admin(bootstrap_servers=place.bootstrap_servers))
        database = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        with contextlib.ExitStack() as consumers:
            for number in range(1, CONSUMERS + 1):
                name = f"consumer-{number}"
                where = (
                    place.bootstrap_servers,
                    dsn,
                    "--topic",
                    place.topic,
                    "--group",
                    place.group,
                    "--name",
                    name,
                )
                consumers.enter_context(family.start(name, "examples.demo.store_orders", *where))
            pace = ("--topic", place.topic, "--seconds", str(seconds), "--rate", str(rate))
            with (
                family.start(
                    "producer", "examples.demo.make_orders", place.bootstrap_servers, *pace
                ) as producer,
                view(place) as (show, pause_s),
            ):
                produced = watch(family, producer, lambda: take(admin, place, database), show, pause_s)
        summarize(produced, take(admin, place, database), seconds)
        if keep:
            print(
                f"Kept: topic {place.topic} and group {place.group} on {place.bootstrap_servers}; rows: psql '{dsn}'"
            )


def watch(family: Family, producer: Child, look: Callable[[], Picture], show: Show, pause_s: float) -> int:
    """Show how things go until the producer is done and the consumers have caught up; how many records it produced."""
    produced: int | None = None
    deadline_s = float("inf")
    while True:
        family.check()
        if produced is None and producer.process.poll() is not None:
            produced = int(producer.line(1.0))
            deadline_s = time.monotonic() + CATCH_UP_S
        picture = look()
        show(picture)
        if produced is not None and not any(picture.lag.values()):
            return produced
        if time.monotonic() > deadline_s:
            raise DemoError(
                f"the consumers did not catch up within {CATCH_UP_S:.0f} s; lag by partition: {picture.lag}"
            )
        time.sleep(pause_s)


def summarize(produced: int, last: Picture, seconds: float) -> None:
    """The balance, after the consumers have ended. DemoError if it is not even."""
    stored, committed = last.rows, sum(last.committed.values())
    print(
        f"produced {produced:,}  stored {stored:,}  committed {committed:,}  ({produced / seconds:,.0f} a second)"
    )
    if not produced == stored == committed:
        raise DemoError("produced, stored and committed are not equal")
    if produced == 0:
        raise DemoError("nothing was produced")
    print("Every record is stored exactly once, and committed.")


if __name__ == "__main__":
    sys.exit(main())
