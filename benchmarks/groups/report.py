"""The tables of a run: on the terminal, in benchmarks/README.md, and the short ones of the project's README.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.groups.plan import Row
from benchmarks.runner import HERE

BEGIN = "<!-- begin of the generated section: python -m benchmarks groups --write -->"
END = "<!-- end of the generated section of groups -->"
FRONT_BEGIN = "<!-- bench groups: begin -->"
FRONT_END = "<!-- bench groups: end -->"


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    figure: str
    unit: float = 1.0
    front: bool = False  # in the project's README.md too


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    first: str
    columns: tuple[Column, ...]


SECTIONS = {
    "takeover": Section(
        "Takeover of a member's partitions, ms",
        "what happens, protocol",
        (
            Column("all partitions flow again", "all_ms", front=True),
            Column("the longest", "longest_ms"),
        ),
    ),
    "rebalance": Section(
        "A member joins a group, ms",
        "group, protocol",
        (
            Column("all flow at their final owner", "settled_ms", front=True),
            Column("standstill of what stays, median", "standstill_ms", front=True),
            Column("longest", "longest_standstill_ms"),
            Column("partitions moved", "moved"),
        ),
    ),
    "join": Section(
        "The first member of a fresh group, ms from the constructor",
        "protocol",
        (
            Column("assignment", "assigned_ms"),
            Column("first record", "first_ms", front=True),
            Column("assignment, first of its process", "cold_assigned_ms"),
            Column("first record, first of its process", "cold_first_ms"),
        ),
    ),
    "partitions": Section(
        "One consumer of many partitions",
        "partitions",
        (
            Column("ms to a record of each", "seen_ms", front=True),
            Column("CPU ms per s when idle", "idle_cpu_ms_per_s", front=True),
            Column("CPU us per record, 1,000 records/s", "cpu_us_per_record", front=True),
            Column("RSS MB", "rss_bytes", 1e-6, front=True),
            Column("threads", "threads"),
        ),
    ),
    "consumers": Section(
        "Many consumers in one process, a group of its own each",
        "consumers",
        (
            Column("ms until all are assigned", "assigned_ms", front=True),
            Column("ms until all have a record", "seen_ms"),
            Column("CPU ms to get there", "start_cpu_ms"),
            Column("CPU ms per s when idle", "idle_cpu_ms_per_s", front=True),
            Column("threads beside the users'", "threads"),
            Column("RSS MB", "rss_bytes", 1e-6, front=True),
        ),
    ),
    "async": Section(
        "Records awaited and not, thousands per second",
        "topic",
        (
            Column("k records/s", "k_records_per_s"),
            Column("CPU s per M records", "cpu_s_per_million"),
            Column("cores", "cores"),
        ),
    ),
}


def tables(rows: Sequence[Row], *, front: bool = False) -> list[str]:
    """Markdown, a table for each section: what is measured from above to below, the clients beside each other."""
    parts = []
    for table, section in SECTIONS.items():
        mine = [row for row in rows if row.scenario.table == table]
        if not mine:
            continue
        columns = [column for column in section.columns if column.front or not front]
        if not columns:
            continue
        parts += [f"{'####' if front else '###'} {section.title}\n"]
        parts += _table(section, columns, mine)
        if not front:
            parts += [f"\n{r.client}, {r.scenario.name}: {r.problem}" for r in mine if r.problem]
        parts.append("")
    return parts


def _table(section: Section, columns: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    lines = [
        "| " + " | ".join([section.first, "client", *(column.title for column in columns)]) + " |",
        "|" + " --- |" * 2 + " ---: |" * len(columns),
    ]
    for row in rows:
        cells = [_number(row.median(column.figure), column.unit) for column in columns]
        lines.append(f"| {row.scenario.name} | {row.client} | " + " | ".join(cells) + " |")
    return lines


def _number(value: float | None, unit: float) -> str:
    if value is None:
        return "-"
    value *= unit
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def print_tables(rows: Sequence[Row]) -> None:
    print("\n".join(tables(rows)))


def markdown(rows: Sequence[Row], where: dict[str, Any], rounds: int, *, front: bool = False) -> str:
    head = (
        f"{where['date']}. {where['processor']}, {where['cores']} cores shared with one Apache Kafka {where['kafka']} on loopback, "
        f"Python {where['python']}; penstock {where['penstock']}, confluent-kafka {where['confluent-kafka']}. "
        f"Load average before the run: {where['load_before']}. Medians of {rounds} round{'s' if rounds > 1 else ''}.\n"
    )
    return "\n".join([head, *tables(rows, front=front)])


def write_readme(rows: Sequence[Row], where: dict[str, Any], rounds: int) -> None:
    report.replace_section(HERE / "README.md", BEGIN, END, markdown(rows, where, rounds))
    front = markdown(rows, where, rounds, front=True)
    report.replace_section(HERE.parent / "README.md", FRONT_BEGIN, FRONT_END, front)


def write_json(rows: Sequence[Row], where: dict[str, Any]) -> Path:
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    path = folder / f"{datetime.now(UTC).strftime('%Y%m%d-%H%M%S')}-groups.json"
    content = {"machine": where, "rows": [row.as_json() for row in rows]}
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return path
