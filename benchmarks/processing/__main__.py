"""`python -m benchmarks processing`: handlers and sinks beside other ways."""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.kafka.kafka import KafkaCluster

from benchmarks import report
from benchmarks.processing import postgres
from benchmarks.processing.child import CONTENDERS
from penstock import Admin, KafkaProducer
from penstock.admin import NewTopic

HERE = Path(__file__).parents[1]
BEGIN = "<!-- begin of the generated section: python -m benchmarks processing --write -->"
END = "<!-- end of the generated section of processing -->"
FRONT_BEGIN, FRONT_END = "<!-- bench processing: begin -->", "<!-- bench processing: end -->"
PARTITIONS, KEYS = 3, 10_000
TIMEOUT_S = 120.0


def fill(bootstrap: str, topic: str, count: int) -> None:
    with Admin(bootstrap_servers=bootstrap) as admin:
        admin.create_topics([NewTopic(topic, PARTITIONS)])
    with KafkaProducer(bootstrap_servers=bootstrap, linger_ms=20, batch_size=262_144) as producer:
        for number in range(count):
            producer.produce(
                topic,
                b"value of order %012d" % number,
                b"key-%05d" % (number * 7919 % KEYS),
                partition=number % PARTITIONS,
            )


def run(name: str, bootstrap: str, topic: str, count: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.processing.child", name, bootstrap, topic, str(count)],
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    if done.returncode or not done.stdout.strip():
        raise RuntimeError(f"{name} ended with {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks processing", description="Handlers and sinks")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="fewer records, one round")
    parser.add_argument("--bootstrap", help="a broker that runs already")
    parser.add_argument(
        "--write", action="store_true", help="write the tables into benchmarks/README.md and README.md"
    )
    arguments = parser.parse_args(given)
    count, rounds = (200_000, 1) if arguments.quick else (1_000_000, arguments.rounds)
    where = report.machine()
    if arguments.bootstrap:
        section = measured(arguments.bootstrap, count, rounds)
    else:
        with KafkaCluster(light=False, heap_mb=1_024) as cluster:
            section = measured(cluster.bootstrap_servers, count, rounds)
    head = (
        f"{where['date']}. {where['processor']}, {where['cores']} cores shared with the broker, {where['system']}; "
        f"Python {where['python']}; Apache Kafka {where['kafka']}. Load average before the run: {where['load_before']}. "
        f"Medians of {rounds} round{'s' if rounds > 1 else ''}."
    )
    page = f"{head}\n\n{section}"
    print(page)
    if arguments.write:
        report.replace_section(HERE / "README.md", BEGIN, END, page)
        report.replace_section(HERE.parent / "README.md", FRONT_BEGIN, FRONT_END, page)
    return 0


def measured(bootstrap: str, count: int, rounds: int) -> str:
    topic = f"orders-{random.randrange(1 << 30):x}"
    fill(bootstrap, topic, count)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for number in range(rounds):
        names = list(CONTENDERS)
        random.shuffle(names)
        for name in names:
            print(f"round {number + 1}: {name}", file=sys.stderr, flush=True)
            found[name].append(run(name, bootstrap, topic, count))
    print("PostgreSQL", file=sys.stderr, flush=True)
    rows = postgres.measure(bootstrap, topic, count, count * 9 // 10, rounds)
    return tables(found, rows)


def tables(found: dict[str, list[dict[str, float]]], rows: dict[str, list[float]]) -> str:
    def median(name: str, what: str) -> float:
        return statistics.median(one[what] for one in found[name])

    lines = [
        "| contender | records/s | of bare asyncio | CPU us per record |",
        "| --- | ---: | ---: | ---: |",
    ]
    bare = median("bare-asyncio", "records_per_s")
    for name in CONTENDERS:
        rate = median(name, "records_per_s")
        share = (
            f"{rate / bare:.2f}"
            if name in ("penstock-wait", "bare-asyncio", "faststream", "confluent-loop")
            else ""
        )
        lines.append(f"| {name} | {rate:,.0f} | {share} | {median(name, 'cpu_us_per_record'):.2f} |")
    lines += ["", "| rows into PostgreSQL | rows/s | of ready-made bytes |", "| --- | ---: | ---: |"]
    ready = statistics.median(rows["COPY, ready-made bytes"])
    for name, rates in rows.items():
        rate = statistics.median(rates)
        lines.append(f"| {name} | {rate:,.0f} | {rate / ready:.3f} |")
    return "\n".join(lines) + "\n"
