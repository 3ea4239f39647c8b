"""`penstock consume`: records of a topic on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from ..errors import CommitFailedError, IllegalStateError
from ..types import TopicPartition
from .options import DEFAULT_BOOTSTRAP, Bootstrap, Extra, client_config, patience
from .running import command, fail, reader_is_gone, warn
from .start import Start, StartKind, parse_start, start_offsets

if TYPE_CHECKING:
    from .._native import ConsumerRecord, ConsumerRecords
    from ..consumer import KafkaConsumer

POLL_MS = 500

Line = Callable[["ConsumerRecord"], bytes]


class Format(StrEnum):
    text = "text"
    json = "json"


From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="PLACE",
        help="beginning, end, an offset, -N for the last N of each partition, or an ISO time. "
        "With --group: beginning or end, for partitions without a committed offset.",
        show_default="beginning",
    ),
]


@command
def consume(
    topic: Annotated[str, typer.Argument(help="The topic to read.", show_default=False)],
    bootstrap_servers: Bootstrap = DEFAULT_BOOTSTRAP,
    format: Annotated[
        Format, typer.Option("-f", "--format", help="text: values; json: one object a line.")
    ] = Format.text,
    start: From = None,
    count: Annotated[
        int | None,
        typer.Option("-n", "--count", min=1, help="Stop after so many records.", show_default="all"),
    ] = None,
    exit_at_end: Annotated[
        bool, typer.Option("-e", "--exit-at-end", help="Stop when what was there at the start is read.")
    ] = False,
    group: Annotated[
        str | None,
        typer.Option(
            "-g", "--group", help="Read as a member of this group, and commit what was written out."
        ),
    ] = None,
    partition: Annotated[
        list[int] | None,
        typer.Option("-p", "--partition", min=0, help="Only this partition; may be given several times."),
    ] = None,
    key_separator: Annotated[
        str | None,
        typer.Option("-k", "--key-separator", help="As text: write the key and this before the value."),
    ] = None,
    extra: Extra = None,
) -> None:
    """Write a topic's records to standard output, until Ctrl-C, `-n` records, or the end (`-e`).

    As text, keys and values are written as the bytes they are, and a missing one as `null`. As JSON, bytes that are not UTF-8
    become `{"base64": ...}`.

    [bold]Examples[/bold]

    penstock consume orders -n 10

    penstock consume orders --from -5 -e --format json | jq .value

    penstock consume orders --from 2026-11-22T08:30 --partition 0

    penstock consume orders --group audit -X isolation.level=read_committed
    """
    place = _place(start, group, partition)
    from ..consumer import KafkaConsumer

    config = client_config(
        bootstrap_servers,
        extra,
        enable_auto_commit=False,
        auto_offset_reset="latest" if place.kind is StartKind.END else "earliest",
        allow_auto_create_topics=False,
    )
    if group is not None:
        config["group.id"] = group
    with KafkaConsumer(**patience(config)) as consumer:
        known = {info.partition for info in consumer.partitions_for(topic)}
        if not known:
            fail(f"there is no topic {topic!r}; penstock topics list shows those there are")
        if group is not None:
            consumer.subscribe([topic])
        else:
            _assign(consumer, topic, set(partition) if partition else known, known, place)
        line = json_line if format is Format.json else text_line(key_separator)
        ends: dict[TopicPartition, int] | None = {} if exit_at_end else None
        if ends is not None and group is None:
            ends.update(consumer.end_offsets(consumer.assignment()))
        copy(consumer, sys.stdout.buffer, line, count, ends, commit=group is not None)


def _place(start: str | None, group: str | None, partition: list[int] | None) -> Start:
    """What --from says, if it goes with the other options."""
    try:
        place = parse_start(start or "beginning")
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--from") from None
    if group is not None and partition:
        raise typer.BadParameter("a group's partitions are assigned by the group", param_hint="--partition")
    if group is not None and place.kind not in (StartKind.BEGINNING, StartKind.END):
        raise typer.BadParameter(
            "a group starts where it committed; to move it: penstock groups reset", param_hint="--from"
        )
    return place


def _assign(consumer: KafkaConsumer, topic: str, wanted: set[int], known: set[int], place: Start) -> None:
    """Take partitions of the topic at their starting places."""
    if not wanted <= known:
        missing = ", ".join(map(str, sorted(wanted - known)))
        fail(f"topic {topic!r} has no partition {missing}; it has 0 to {max(known)}")
    partitions = [TopicPartition(topic, number) for number in sorted(wanted)]
    places = start_offsets(consumer, partitions, place)
    consumer.assign(partitions)
    for tp, offset in places.items():
        consumer.seek(tp, offset)


def copy(
    consumer: KafkaConsumer,
    out: BinaryIO,
    line: Line,
    count: int | None,
    ends: dict[TopicPartition, int] | None,
    *,
    commit: bool,
) -> None:
    """Write records until `count` are written, `ends` (None: no end) are reached, or nobody reads any more."""
    left = count
    while left is None or left > 0:
        records = consumer.poll(timeout=POLL_MS)
        if not records and reader_is_gone():
            return
        if left is not None:
            records = records[:left]
            left -= len(records)
        out.write(b"".join(map(line, records)))
        out.flush()
        if commit and records:
            _commit(consumer, records)  # after the flush: what a broken pipe swallowed is not committed
        if ends is not None and _at_end(consumer, ends):
            return


def _commit(consumer: KafkaConsumer, records: ConsumerRecords) -> None:
    try:
        consumer.commit(records)
    except CommitFailedError as error:
        warn(f"{error}; another member will read these records again")


def _at_end(consumer: KafkaConsumer, ends: dict[TopicPartition, int]) -> bool:
    """Whether all that was there at the start is read; for a partition that came later, at its coming."""
    assigned = consumer.assignment()
    if new := assigned - ends.keys():
        ends.update(consumer.end_offsets(new))
    try:
        return bool(assigned) and all(consumer.position(tp) >= ends[tp] for tp in assigned)
    except IllegalStateError:
        return False  # a rebalance took a partition away between the two questions


def text_line(key_separator: str | None) -> Line:
    """Records as lines of text; with a separator, the key comes first."""
    separator = None if key_separator is None else key_separator.encode()

    def line(record: ConsumerRecord) -> bytes:
        value = record.raw_value
        shown = b"null" if value is None else value
        if separator is None:
            return shown + b"\n"
        key = record.raw_key
        return (b"null" if key is None else key) + separator + shown + b"\n"

    return line


def json_line(record: ConsumerRecord) -> bytes:
    """A record as one line of JSON."""
    shown = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "key": _json(record.raw_key),
        "value": _json(record.raw_value),
    }
    if headers := record.headers:
        shown["headers"] = [[name, _json(value)] for name, value in headers]
    return json.dumps(shown, ensure_ascii=False).encode() + b"\n"


def _json(data: bytes | None) -> Any:
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        import base64

        return {"base64": base64.b64encode(data).decode()}
