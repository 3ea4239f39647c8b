"""Where reading starts: `--from beginning | end | OFFSET | -COUNT | TIME`, as offsets."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from ..types import TopicPartition

if TYPE_CHECKING:
    from ..consumer import KafkaConsumer


class StartKind(Enum):
    BEGINNING = auto()
    END = auto()
    OFFSET = auto()
    LAST = auto()
    TIME = auto()


@dataclass(frozen=True, slots=True)
class Start:
    """`number` is the offset, the count of last records, or the time in ms since 1970."""

    kind: StartKind
    number: int = 0


def parse_start(text: str) -> Start:
    """ValueError, with what is possible, for anything else. A time without a zone is local time."""
    word = text.strip()
    if word in ("beginning", "end"):
        return Start(StartKind.BEGINNING if word == "beginning" else StartKind.END)
    try:
        number = int(word)
    except ValueError:
        pass
    else:
        return Start(StartKind.LAST, -number) if word.startswith("-") else Start(StartKind.OFFSET, number)
    try:
        moment = datetime.datetime.fromisoformat(word)
    except ValueError:
        raise ValueError(
            f"{text!r} is no place to start: use beginning, end, an offset (42), a number of last records of each partition (-10), "
            "or a time (2026-11-22T08:30, 2026-11-22T08:30:00Z)"
        ) from None
    return Start(StartKind.TIME, int(moment.timestamp() * 1000))


def start_offsets(
    consumer: KafkaConsumer, partitions: Iterable[TopicPartition], start: Start
) -> dict[TopicPartition, int]:
    """The offset of each partition to start from, held between its first and its end: beyond, a reset would decide."""
    wanted = list(partitions)
    if start.kind is StartKind.BEGINNING:
        return consumer.beginning_offsets(wanted)
    ends = consumer.end_offsets(wanted)
    if start.kind is StartKind.END:
        return ends
    if start.kind is StartKind.TIME:
        found = consumer.offsets_for_times(dict.fromkeys(wanted, start.number))
        return {tp: place.offset if (place := found[tp]) is not None else ends[tp] for tp in wanted}
    firsts = consumer.beginning_offsets(wanted)
    targets = {
        tp: start.number if start.kind is StartKind.OFFSET else ends[tp] - start.number for tp in wanted
    }
    return {tp: min(max(target, firsts[tp]), ends[tp]) for tp, target in targets.items()}
