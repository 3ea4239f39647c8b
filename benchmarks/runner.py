"""Runs contenders as fresh processes, in shuffled order, and keeps what they measured."""

from __future__ import annotations

import functools
import json
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.kafka.jars import KafkaToolError, ensure_jars
from tools.kafka.java import compile_java, java_command
from tools.maven import require_program

from benchmarks.contenders import POLL_RECORDS, PYTHON
from benchmarks.topics import READ_SHARE, TopicSpec

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = ROOT / "build" / "benchmarks"
CONTENDERS = [*PYTHON, "java", "limit"]
WARMUP_SHARE = 20  # one in so many records
CHILD_TIMEOUT_S = 60.0


@dataclass(slots=True)
class Outcome:
    """What the rounds of one contender on one topic gave, or why there is nothing."""

    contender: str
    topic: str
    rounds: list[dict[str, float]] = field(default_factory=list)
    problem: str | None = None

    def median(self, value: Callable[[dict[str, float]], float]) -> float | None:
        return statistics.median(map(value, self.rounds)) if self.rounds else None

    @property
    def records_per_second(self) -> float | None:
        return self.median(lambda one: one["records"] / one["seconds"])

    @property
    def bytes_per_second(self) -> float | None:
        return self.median(lambda one: one["bytes"] / one["seconds"])

    @property
    def cpu_seconds_per_million(self) -> float | None:
        return self.median(lambda one: one["cpu_seconds"] / one["records"] * 1e6)

    @property
    def cores(self) -> float | None:
        return self.median(lambda one: one["cpu_seconds"] / one["seconds"])

    @property
    def memory_bytes(self) -> float | None:
        """Peak resident memory above the bare interpreter's."""
        return self.median(lambda one: one["peak_rss_bytes"] - one["bare_rss_bytes"])

    def as_json(self) -> dict[str, Any]:
        return {
            "contender": self.contender,
            "topic": self.topic,
            "problem": self.problem,
            "records_per_second": self.records_per_second,
            "bytes_per_second": self.bytes_per_second,
            "cpu_seconds_per_million": self.cpu_seconds_per_million,
            "cores": self.cores,
            "memory_bytes": self.memory_bytes,
            "rounds": self.rounds,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """One run of the benchmark."""

    bootstrap: str
    topics: Sequence[TopicSpec]
    contenders: Sequence[str]
    rounds: int
    quick: bool
    limit_s: float


def run(plan: Plan, report: Callable[[str], None]) -> list[Outcome]:
    """All topics, all rounds. A contender that fails in a topic is left out of that topic's further rounds."""
    outcomes: list[Outcome] = []
    chance = random.Random()
    for spec in plan.topics:
        rows = {name: Outcome(name, spec.name) for name in plan.contenders}
        # The broker's own code is compiled and its files are in the page cache before the first one counts.
        measure(plan, spec, Outcome("limit", spec.name))
        for number in range(plan.rounds):
            order = [name for name in plan.contenders if rows[name].problem is None]
            chance.shuffle(order)
            for name in order:
                measure(plan, spec, rows[name])
                report(f"{spec.name}, round {number + 1}: {_line(rows[name])}")
        outcomes += rows.values()
    return outcomes


def measure(plan: Plan, spec: TopicSpec, row: Outcome) -> None:
    """One round of one contender."""
    try:
        found = json.loads(_output(command(row.contender, plan, spec)))
    except (ChildError, KafkaToolError) as error:
        row.problem = str(error)
        return
    if "absent" in found:
        row.problem = found["absent"]
        return
    found["bare_rss_bytes"] = bare_rss_bytes() if row.contender in PYTHON else 0
    row.rounds.append(found)


def command(contender: str, plan: Plan, spec: TopicSpec) -> list[str]:
    """What to run for a contender."""
    topic, count = spec.topic(plan.quick), int(spec.count(plan.quick) * READ_SHARE)
    warmup = count // WARMUP_SHARE
    if contender in PYTHON:
        order = {
            "bootstrap": plan.bootstrap,
            "topic": topic,
            "partitions": spec.partitions,
            "count": count,
            "warmup": _warmup_of(contender, warmup),
            "limit_s": plan.limit_s,
        }
        return [sys.executable, "-m", "benchmarks.child", contender, json.dumps(order)]
    where = [plan.bootstrap, topic, str(spec.partitions)]
    if contender == "limit":
        return [str(limit_program()), *where, str(warmup), str(plan.limit_s)]
    classes = compile_java([HERE / "java" / "JavaConsumer.java"], BUILD / "java")
    java = java_command("JavaConsumer", BUILD / "java.log", classpath=[classes], jvm_args=["-Xmx2g"])
    return [*java, *where, str(count), str(warmup), str(plan.limit_s), str(POLL_RECORDS)]


def _warmup_of(contender: str, warmup: int) -> int:
    """Slow contenders do not come far in the time they have: their warm-up is shorter."""
    return max(1, warmup // 5) if contender in ("kafka-python", "confluent-defaults") else warmup


class ChildError(RuntimeError):
    """A contender's process failed."""


def _output(arguments: list[str]) -> str:
    """The last line that a process prints."""
    try:
        done = subprocess.run(
            arguments, capture_output=True, text=True, cwd=ROOT, timeout=CHILD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ChildError(f"did not end within {CHILD_TIMEOUT_S:.0f} s") from error
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        complaint = (done.stderr.strip() or "no output").splitlines()
        raise ChildError(f"ended with {done.returncode}: {complaint[-1]}")
    return lines[-1]


@functools.cache
def bare_rss_bytes() -> int:
    """The peak memory of a Python process that only imports what every contender's process does."""
    found: int = json.loads(_output([sys.executable, "-m", "benchmarks.child", "bare", "{}"]))[
        "peak_rss_bytes"
    ]
    return found


@functools.cache
def limit_program() -> Path:
    """The native loop that fetches and throws away; it needs the compiler alone, and no crate."""
    source = ROOT / "native" / "dataplane" / "examples" / "limit.rs"
    program = BUILD / "limit"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        compiler = require_program("rustc", "install Rust 1.89 or newer, https://rustup.rs")
        BUILD.mkdir(parents=True, exist_ok=True)
        _compile([compiler, "--edition", "2024", "-O", str(source), "-o", str(program)])
    return program


def _compile(arguments: list[str]) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        raise ChildError(f"rustc refused limit.rs:\n{done.stderr}")


def prepare(contenders: Sequence[str]) -> None:
    """Build before anything is measured."""
    limit_program()
    if "java" in contenders:
        ensure_jars()
        compile_java([HERE / "java" / "JavaConsumer.java"], BUILD / "java")
    bare_rss_bytes()


def _line(row: Outcome) -> str:
    if row.problem is not None:
        return f"{row.contender}: {row.problem}"
    last = row.rounds[-1]
    return (
        f"{row.contender}: {last['records'] / last['seconds'] / 1e3:,.0f} k records/s, "
        f"{last['bytes'] / last['seconds'] / 1e6:,.0f} MB/s"
    )


def by_topic(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, list[Outcome]]]:
    """Outcomes in groups, in the order in which the topics ran."""
    for topic in dict.fromkeys(outcome.topic for outcome in outcomes):
        yield topic, [outcome for outcome in outcomes if outcome.topic == topic]
