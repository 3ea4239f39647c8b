"""What the demo shows: one table, live, on a terminal; else a line a second."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import psycopg
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from penstock import Admin, TopicPartition
from penstock.errors import KafkaError

from .servers import PARTITIONS, Place

REFRESH_S = 0.5
PLAIN_S = 1.0
SPARKS = "▁▂▃▄▅▆▇█"
HISTORY = 60

Show = Callable[["Picture"], None]


@dataclass(frozen=True, slots=True)
class Picture:
    """The state of things at one moment. `ends`, `committed` and `owners` are by partition; `group` is the group's state."""

    taken_s: float
    ends: dict[int, int]
    committed: dict[int, int]
    owners: dict[int, str]
    group: str
    rows: int

    @property
    def produced(self) -> int:
        return sum(self.ends.values())

    @property
    def lag(self) -> dict[int, int]:
        return {number: end - self.committed.get(number, 0) for number, end in self.ends.items()}


def take(admin: Admin, place: Place, database: psycopg.Connection) -> Picture:
    """Ask the broker, the group and the database. Offsets first read are the smaller ones, so no lag is below zero."""
    partitions = [TopicPartition(place.topic, number) for number in range(PARTITIONS)]
    row = database.execute("SELECT count(*) FROM orders").fetchone()
    committed = admin.group_offsets(place.group)
    ends = admin.list_offsets(dict.fromkeys(partitions, "latest"))
    owners, state = _owners(admin, place)
    return Picture(
        time.monotonic(),
        {tp.partition: found.offset for tp, found in ends.items() if found is not None},
        {tp.partition: found.offset for tp, found in committed.items() if tp.topic == place.topic},
        owners,
        state,
        row[0] if row else 0,
    )


def _owners(admin: Admin, place: Place) -> tuple[dict[int, str], str]:
    try:
        group = admin.describe_group(place.group)
    except KafkaError:
        return {}, "no members yet"  # the group comes into being when its first member joins
    # While a group rebalances, the coordinator knows its members, and not yet who will own what.
    state = "stable" if group.state == "Stable" else "rebalancing" if group.members else "no members"
    return {tp.partition: member.client_id for member in group.members for tp in member.assignment}, state


@dataclass(slots=True)
class History:
    """The pictures so far, as rates."""

    first: Picture | None = None
    last: Picture | None = None
    stored_rates: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))
    produced_rate: float = 0.0
    stored_rate: float = 0.0

    def add(self, picture: Picture) -> None:
        if self.last is not None:
            seconds = max(0.001, picture.taken_s - self.last.taken_s)
            self.produced_rate = (picture.produced - self.last.produced) / seconds
            self.stored_rate = (picture.rows - self.last.rows) / seconds
            self.stored_rates.append(self.stored_rate)
        self.first = self.first or picture
        self.last = picture

    def seconds(self) -> float:
        return 0.0 if self.first is None or self.last is None else self.last.taken_s - self.first.taken_s


@contextlib.contextmanager
def view(place: Place) -> Iterator[tuple[Show, float]]:
    """How to show a picture, and how many seconds to let pass between two."""
    history = History()
    if not sys.stdout.isatty():

        def plain(picture: Picture) -> None:
            history.add(picture)
            print(_line(history, picture), flush=True)

        yield plain, PLAIN_S
        return
    with Live(console=Console(), auto_refresh=False) as live:

        def drawn(picture: Picture) -> None:
            history.add(picture)
            live.update(_draw(history, picture, place), refresh=True)

        yield drawn, REFRESH_S


def _line(history: History, picture: Picture) -> str:
    lags = " ".join(f"{number}:{lag}" for number, lag in sorted(picture.lag.items()))
    owners = (
        " ".join(f"{number}:{owner}" for number, owner in sorted(picture.owners.items())) or picture.group
    )
    return (
        f"{history.seconds():5.1f} s  produced {picture.produced} ({history.produced_rate:.0f}/s)  "
        f"stored {picture.rows} ({history.stored_rate:.0f}/s)  lag {lags}  owners {owners}"
    )


def _draw(history: History, picture: Picture, place: Place) -> Group:
    head = Table.grid(padding=(0, 3))
    head.add_row("", Text("records", style="dim"), Text("a second", style="dim"))
    head.add_row("produced", f"{picture.produced:,}", f"{history.produced_rate:,.0f}")
    head.add_row("rows in PostgreSQL", f"{picture.rows:,}", f"{history.stored_rate:,.0f}")
    partitions = Table(title=f"{place.topic}, group {place.group}", title_justify="left")
    partitions.add_column("partition")
    partitions.add_column("owner")
    for name in ("end", "committed", "lag"):
        partitions.add_column(name, justify="right")
    for number, lag in sorted(picture.lag.items()):
        owner = picture.owners.get(number)
        partitions.add_row(
            str(number),
            owner or Text(picture.group, style="dim"),
            f"{picture.ends[number]:,}",
            f"{picture.committed.get(number, 0):,}",
            Text(f"{lag:,}", style="green" if lag < 5_000 else "yellow"),
        )
    return Group(
        head, Text(""), partitions, Text(f"stored a second  {_sparks(history.stored_rates)}", style="cyan")
    )


def _sparks(values: deque[float]) -> str:
    top = max(values, default=0.0) or 1.0
    return "".join(SPARKS[min(len(SPARKS) - 1, int(max(0.0, value) / top * len(SPARKS)))] for value in values)
