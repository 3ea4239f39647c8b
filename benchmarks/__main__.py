"""`python -m benchmarks`: one run, one table for each topic. `python -m benchmarks groups` and `processing`: see there."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from tools.kafka.kafka import KafkaCluster

from benchmarks import latency, report, runner
from benchmarks.topics import SPECS, fill

FULL_LIMIT_S = 3.0
QUICK_LIMIT_S = 1.0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Consumers beside each other")
    parser.add_argument(
        "--topics", type=_names(SPECS), default=list(SPECS), help="with commas: " + ", ".join(SPECS)
    )
    parser.add_argument(
        "--contenders",
        type=_names(runner.CONTENDERS),
        default=list(runner.CONTENDERS),
        help="with commas: " + ", ".join(runner.CONTENDERS),
    )
    parser.add_argument(
        "--rounds", type=int, help="how often each is run (default 3, quick 1); medians are shown"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a fifth of the records, one round, under 4 minutes"
    )
    parser.add_argument("--bootstrap", help="a broker that runs already; topics it has filled are used again")
    parser.add_argument("--no-latency", action="store_true", help="leave latency and start-up out")
    parser.add_argument("--write", action="store_true", help="write the tables into benchmarks/README.md")
    return parser.parse_args()


def _names(known: Collection[str]) -> Callable[[str], list[str]]:
    """An argument's type: names with commas between, each one known."""

    def parse(text: str) -> list[str]:
        names = [name for name in text.split(",") if name]
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return parse


@contextmanager
def _broker(bootstrap: str | None) -> Iterator[str]:
    if bootstrap is not None:
        yield bootstrap
        return
    with KafkaCluster(light=False, heap_mb=1_024) as cluster:
        yield cluster.bootstrap_servers


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    if sys.argv[1:2] == ["groups"]:
        from benchmarks.groups.__main__ import main as groups

        return groups(sys.argv[2:])
    if sys.argv[1:2] == ["processing"]:
        from benchmarks.processing.__main__ import main as processing

        return processing(sys.argv[2:])
    arguments = _arguments()
    rounds = arguments.rounds or (1 if arguments.quick else 3)
    where = report.machine()
    runner.prepare(arguments.contenders)
    begin = time.monotonic()
    specs = [SPECS[name] for name in arguments.topics]
    with _broker(arguments.bootstrap) as bootstrap:
        for spec in specs:
            took_s = fill(bootstrap, spec, arguments.quick)
            _say(f"filled {spec.topic(arguments.quick)} in {took_s:.1f} s")
        limit_s = QUICK_LIMIT_S if arguments.quick else FULL_LIMIT_S
        plan = runner.Plan(bootstrap, specs, arguments.contenders, rounds, arguments.quick, limit_s)
        outcomes = runner.run(plan, _say)
        extra = {} if arguments.no_latency else latency.run(bootstrap, arguments.quick, rounds, _say)
    report.print_tables(outcomes, extra)
    path = report.write_json(outcomes, extra, where)
    if arguments.write:
        page = (outcomes, extra, where, rounds)
        report.write_readme(report.markdown(*page), report.front_page(*page))
    _say(f"{time.monotonic() - begin:.0f} s in all; every round is in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
