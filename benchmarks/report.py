"""What was measured, as a table on the terminal, as JSON, and as the generated section of README.md."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tools.kafka.jars import kafka_version

from benchmarks.contenders import versions
from benchmarks.runner import HERE, Outcome, by_topic

BASES = ("confluent-best", "confluent-defaults")
BEGIN = "<!-- begin of the generated section: python -m benchmarks --write -->"
END = "<!-- end of the generated section -->"
FRONT_BEGIN = "<!-- bench: begin -->"
FRONT_END = "<!-- bench: end -->"
COLUMNS = ("contender", "k records/s", "MB/s", "x confluent", "CPU s per M records", "cores", "memory MB")


def machine() -> dict[str, Any]:
    """Where this ran."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gb": round(pages / 1e9),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "kafka": kafka_version(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "load_before": round(os.getloadavg()[0], 1),
        **versions(),
    }


def rows(outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
    """One topic's table, the fastest first, without those that have no result."""
    base = max((one.records_per_second or 0 for one in outcomes if one.contender in BASES), default=0.0)
    ordered = sorted(outcomes, key=lambda one: -(one.records_per_second or 0))
    return [(one.contender, *_cells(one, base)) for one in ordered if one.problem is None]


def problems(outcomes: Sequence[Outcome]) -> list[tuple[str, str]]:
    """The contenders without a result, and why."""
    return [(one.contender, one.problem) for one in outcomes if one.problem is not None]


def _cells(one: Outcome, base: float) -> tuple[str, ...]:
    rate = one.records_per_second or 0
    return (
        _number(rate / 1e3),
        _number((one.bytes_per_second or 0) / 1e6),
        f"{rate / base:.2f}" if base else "",
        _number(one.cpu_seconds_per_million or 0),
        f"{one.cores or 0:.2f}",
        _number((one.memory_bytes or 0) / 1e6),
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"


def print_tables(outcomes: Sequence[Outcome], extra: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=110)
    for topic, group in by_topic(outcomes):
        table = Table(title=topic, title_justify="left")
        for number, name in enumerate(COLUMNS):
            table.add_column(name, justify="left" if number == 0 else "right")
        for row in rows(group):
            table.add_row(*row)
        console.print(table)
        for name, problem in problems(group):
            console.print(f"  {name}: {problem}", highlight=False)
    for title, line in _extra_lines(extra):
        console.print(f"{title}: {line}")


def markdown(outcomes: Sequence[Outcome], extra: dict[str, Any], where: dict[str, Any], rounds: int) -> str:
    """The generated section, without its marks."""
    packages = ", ".join(f"{name} {found}" for name, found in versions().items())
    parts = [
        f"{where['date']}. {where['processor']}, {where['cores']} cores shared with the broker, {where['memory_gb']} GB, "
        f"{where['system']}; Python {where['python']}; Apache Kafka {where['kafka']}, one broker on loopback. "
        f"Load average before the run: {where['load_before']}. {packages}. "
        f"Medians of {rounds} round{'s' if rounds > 1 else ''}.",
    ]
    for topic, group in by_topic(outcomes):
        parts.append(f"\n### {topic}\n")
        parts.append("| " + " | ".join(COLUMNS) + " |")
        parts.append("|" + " --- |" + " ---: |" * (len(COLUMNS) - 1))
        parts += ["| " + " | ".join(row) + " |" for row in rows(group)]
        parts += [f"\n{name}: {problem}" for name, problem in problems(group)]
    lines = list(_extra_lines(extra))
    if lines:
        parts.append("\n### Latency and start-up\n")
        parts += [f"- {title}: {line}" for title, line in lines]
    return "\n".join(parts) + "\n"


def front_page(outcomes: Sequence[Outcome], extra: dict[str, Any], where: dict[str, Any], rounds: int) -> str:
    """The short table of the project's own README: records per second by topic, CPU and memory of the first topic."""
    groups = by_topic(outcomes)
    topics = [topic for topic, _ in groups]
    found = {(one.contender, one.topic): one for one in outcomes}
    names = sorted({one.contender for one in outcomes}, key=lambda name: -_rate(found.get((name, topics[0]))))
    parts = [
        f"Thousands of records per second, and for {topics[0]} the CPU microseconds per record and the memory in MB above the bare "
        f"interpreter. {where['date'][:10]}, {where['processor']}, {where['cores']} cores shared with one Apache Kafka "
        f"{where['kafka']} on loopback, Python {where['python']}; medians of {rounds} rounds in shuffled order. `limit` is a native loop "
        "that sends the same fetches and throws the bytes away.\n",
        "| contender | " + " | ".join([*topics, "CPU", "memory"]) + " |",
        "|" + " --- |" + " ---: |" * (len(topics) + 2),
    ]
    for name in names:
        cells = [
            _number(_rate(found.get((name, topic))) / 1e3) if _rate(found.get((name, topic))) else "-"
            for topic in topics
        ]
        first = found.get((name, topics[0]))
        cpu = first.cpu_seconds_per_million if first else None
        memory = first.memory_bytes if first else None
        cells += [f"{cpu:.2f}" if cpu else "-", f"{memory / 1e6:.0f}" if memory else "-"]
        parts.append(f"| {name} | " + " | ".join(cells) + " |")
    parts.append("")
    parts += [f"- {title}: {line}" for title, line in _extra_lines(extra)]
    return "\n".join(parts) + "\n"


def _rate(one: Outcome | None) -> float:
    return (one.records_per_second or 0.0) if one is not None else 0.0


def _extra_lines(extra: dict[str, Any]) -> list[tuple[str, str]]:
    lines = []
    for name, one in extra.get("latency", {}).items():
        found = one.get("problem") or f"p50 {one['p50_ms']:.2f} ms, p99 {one['p99_ms']:.2f} ms"
        lines.append((f"latency of a record every 5 ms, {name}", found))
    for name, one in extra.get("startup", {}).items():
        found = one.get("problem") or f"{one['startup_ms']:.0f} ms"
        lines.append((f"constructor to first assignment, {name}", found))
    return lines


def write_readme(section: str, front: str) -> None:
    """Replace the generated sections of benchmarks/README.md and of the project's README.md."""
    replace_section(HERE / "README.md", BEGIN, END, section)
    replace_section(HERE.parent / "README.md", FRONT_BEGIN, FRONT_END, front)


def replace_section(path: Path, begin: str, end: str, section: str) -> None:
    """Put `section` between two marks of a page."""
    head, found, rest = path.read_text(encoding="utf-8").partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{path} has no section from {begin} to {end}")
    path.write_text(f"{head}{begin}\n\n{section}\n{end}{tail}", encoding="utf-8")


def write_json(outcomes: Sequence[Outcome], extra: dict[str, Any], where: dict[str, Any]) -> Path:
    """One file per run under benchmarks/results, which is not committed."""
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    path = folder / f"{datetime.now(UTC).strftime('%Y%m%d-%H%M%S')}.json"
    content = {"machine": where, "outcomes": [one.as_json() for one in outcomes], **extra}
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return path
