"""`python -m benchmarks groups`: changes of groups, and the cost of numbers."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence

from tools.kafka.kafka import KafkaCluster

from benchmarks import report as records_report
from benchmarks.groups import plan, report, stage

ROUNDS = 3


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks groups", description="Groups and numbers beside other clients"
    )
    parser.add_argument(
        "--only", default="", help="a regular expression over 'table, scenario': 'rebalance, 2 '"
    )
    parser.add_argument("--clients", default=",".join(stage.CLIENTS), help="with commas between")
    parser.add_argument("--rounds", type=int, help=f"default {ROUNDS}, quick 1; medians are shown")
    parser.add_argument("--quick", action="store_true", help="fewer scenarios, one round, under 4 minutes")
    parser.add_argument(
        "--bootstrap",
        help="a broker that runs already; for the consumer protocol it needs stage.BROKER's settings",
    )
    parser.add_argument(
        "--write", action="store_true", help="write the tables into benchmarks/README.md and README.md"
    )
    return parser.parse_args(given)


def main(given: Sequence[str]) -> int:
    arguments = _arguments(given)
    clients = [name for name in arguments.clients.split(",") if name]
    if unknown := set(clients) - set(stage.CLIENTS):
        print(
            f"unknown clients: {', '.join(sorted(unknown))}; known: {', '.join(stage.CLIENTS)}",
            file=sys.stderr,
        )
        return 2
    wanted = [
        one
        for one in plan.scenarios()
        if re.search(arguments.only, f"{one.table}, {one.name}") and (one.quick or not arguments.quick)
    ]
    rounds = arguments.rounds or (1 if arguments.quick else ROUNDS)
    where = records_report.machine()
    stage.prepare()
    begin_s = time.monotonic()
    if arguments.bootstrap:
        rows = plan.run(arguments.bootstrap, wanted, clients, rounds, arguments.quick, _say)
    else:
        with KafkaCluster(light=False, heap_mb=1_024, config=stage.BROKER) as cluster:
            plan.warm_up(cluster.bootstrap_servers)
            rows = plan.run(cluster.bootstrap_servers, wanted, clients, rounds, arguments.quick, _say)
    report.print_tables(rows)
    path = report.write_json(rows, where)
    if arguments.write:
        report.write_readme(rows, where, rounds)
    _say(f"{time.monotonic() - begin_s:.0f} s in all; every round is in {path}")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
