"""Which scenarios there are, and one run of them: rounds in which the clients take turns in shuffled order."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from benchmarks import runner
from benchmarks.groups import changes, costs
from benchmarks.groups.stage import CLIENTS, VARIANTS, Stage, StageError
from benchmarks.topics import SPECS, fill

QUICK_TAKEOVERS = {("kill", "range"), ("close", "consumer")}
ASYNC = ("penstock-defaults", "penstock-async", "aiokafka")

Play = Callable[[Stage, str, int, int], dict[str, float]]
"""(stage, client, round, rounds) -> figures."""


@dataclass(slots=True)
class Scenario:
    """One row of a table for each client."""

    table: str
    name: str
    play: Play
    quick: bool = True
    partitions: int = 0  # of a topic that all clients read
    clients: tuple[str, ...] = CLIENTS


@dataclass(slots=True)
class Row:
    """What the rounds of one client gave, or why there is nothing."""

    scenario: Scenario
    client: str
    rounds: list[dict[str, float]] = field(default_factory=list)
    problem: str | None = None

    def median(self, figure: str) -> float | None:
        return statistics.median(one[figure] for one in self.rounds) if self.rounds else None

    def as_json(self) -> dict[str, Any]:
        return {
            "table": self.scenario.table,
            "scenario": self.scenario.name,
            "client": self.client,
            "problem": self.problem,
            "rounds": self.rounds,
        }


def _takeover(variant: str, how: str) -> Play:
    return lambda stage, client, number, rounds: changes.takeover(
        stage, client, variant, how, (number + 0.5) / rounds
    )


def _rebalance(variant: str, members: int) -> Play:
    return lambda stage, client, number, rounds: changes.rebalance(
        stage, client, variant, members, (number + 0.5) / rounds
    )


def _join(variant: str) -> Play:
    return lambda stage, client, number, rounds: changes.join(stage, client, variant)


def _consumers(count: int) -> Play:
    return lambda stage, client, number, rounds: costs.of_consumers(stage, client, "range", count)


def _reads(stage: Stage, client: str, number: int, rounds: int) -> dict[str, float]:
    """A contender of the record benchmark on its first topic."""
    spec = SPECS["100B"]
    fill(stage.bootstrap, spec, stage.quick)
    row = runner.Outcome(client, spec.name)
    limit_s = 1.0 if stage.quick else 3.0
    runner.measure(runner.Plan(stage.bootstrap, [spec], [client], 1, stage.quick, limit_s), spec, row)
    if row.problem is not None:
        raise StageError(row.problem)
    return {
        "k_records_per_s": (row.records_per_second or 0.0) / 1e3,
        "cpu_s_per_million": row.cpu_seconds_per_million or 0.0,
        "cores": row.cores or 0.0,
    }


def scenarios() -> list[Scenario]:
    found = [
        Scenario(
            "takeover", f"{how}, {variant}", _takeover(variant, how), quick=(how, variant) in QUICK_TAKEOVERS
        )
        for how in ("kill", "close")
        for variant in VARIANTS
    ]
    found += [
        Scenario(
            "rebalance", f"{members} + 1 members, {variant}", _rebalance(variant, members), quick=members == 2
        )
        for members in changes.PARTITIONS
        for variant in VARIANTS
    ]
    found += [
        Scenario("join", variant, _join(variant), quick=variant == "range")
        for variant in ("range", "consumer")
    ]
    found += [
        Scenario("partitions", f"{count:,}", _no_topic, quick=count in (1, 1_000), partitions=count)
        for count in (1, 100, 1_000, 10_000)
    ]
    found += [
        Scenario("consumers", str(count), _consumers(count), quick=count == 10) for count in (1, 10, 100)
    ]
    return [*found, Scenario("async", "100B", _reads, clients=ASYNC)]


def _no_topic(stage: Stage, client: str, number: int, rounds: int) -> dict[str, float]:
    raise AssertionError("run() reads the shared topic")


def run(
    bootstrap: str,
    wanted: Sequence[Scenario],
    clients: Sequence[str],
    rounds: int,
    quick: bool,
    say: Callable[[str], None],
) -> list[Row]:
    """All scenarios, all rounds. A client that fails in a scenario is left out of its further rounds."""
    rows: list[Row] = []
    for scenario in wanted:
        mine = {c: Row(scenario, c) for c in scenario.clients if c in clients or c not in CLIENTS}
        with _shared_topic(bootstrap, quick, scenario.partitions) as topic:
            for number in range(rounds):
                for client in random.sample(list(mine), len(mine)):
                    row = mine[client]
                    if row.problem is None:
                        _play(bootstrap, quick, row, topic, number, rounds)
                        say(f"{scenario.table}, {scenario.name}, round {number + 1}: {_line(row)}")
        rows += mine.values()
    return rows


def warm_up(bootstrap: str) -> None:
    """A fresh broker makes its offsets topic for the first group that comes, and compiles what all go through: nobody pays for it."""
    for client in CLIENTS:
        with Stage(bootstrap, quick=True) as stage:
            changes.join(stage, client, "consumer")
        with Stage(bootstrap, quick=True) as stage:
            changes.join(stage, client, "range")


def _shared_topic(bootstrap: str, quick: bool, partitions: int) -> Any:
    """Made once for all clients and rounds: thousands of partitions take a broker longer than what is measured."""
    return Stage(bootstrap, quick).topic(partitions, one_each=True) if partitions else nullcontext("")


def _play(bootstrap: str, quick: bool, row: Row, topic: str, number: int, rounds: int) -> None:
    try:
        with Stage(bootstrap, quick) as stage:
            if row.scenario.partitions:
                found = costs.of_partitions(stage, row.client, topic, row.scenario.partitions)
            else:
                found = row.scenario.play(stage, row.client, number, rounds)
    except (StageError, OSError) as error:
        row.problem = str(error)
        return
    row.rounds.append(found)


def _line(row: Row) -> str:
    if row.problem is not None:
        return f"{row.client}: {row.problem}"
    figures = ", ".join(f"{name} {value:,.0f}" for name, value in row.rounds[-1].items())
    return f"{row.client}: {figures}"


__all__ = ["CLIENTS", "Row", "Scenario", "run", "scenarios", "warm_up"]
