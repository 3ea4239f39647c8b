"""`penstock dlq`: list, show, redrive."""

from __future__ import annotations

import json
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..types import TopicPartition
from .options import DEFAULT_BOOTSTRAP, Bootstrap, Extra, client_config, pairs, patience
from .output import table
from .running import command, fail

if TYPE_CHECKING:
    from .._native import ConsumerRecord
    from ..consumer import KafkaConsumer

dlq = typer.Typer(
    no_args_is_help=True,
    help="Dead letters: what is there and why, and back to where it came from.",
    rich_markup_mode="rich",
)

_LAST = 20
_POLL_MS = 500
_PREVIEW_CHARACTERS = 60

Topic = Annotated[str, typer.Argument(metavar="TOPIC", help="The dead-letter topic.", show_default=False)]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="NAME=TEXT",
        help="Only those whose exception, topic (original), partition, message or key contains this; may be given several times.",
    ),
]


@dlq.command("list")
@command
def list_letters(
    topics: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TOPIC]...", help="All topics that hold any, if none is given."),
    ] = None,
    bootstrap_servers: Bootstrap = DEFAULT_BOOTSTRAP,
    extra: Extra = None,
) -> None:
    """Count dead letters by topic, original topic and exception.

    [bold]Example:[/bold] penstock dlq list orders.dlq
    """
    counts: Counter[tuple[str, str, str]] = Counter()
    with _reader(bootstrap_servers, extra) as consumer:
        for topic in topics or _topics_with_letters(consumer):
            for record in _all_of(consumer, topic):
                letter = Letter(record)
                counts[topic, letter.topic or "-", letter.exception or "-"] += 1
    table(
        ("topic", "original topic", "exception", "records"),
        [(*place, number) for place, number in sorted(counts.items())],
    )


@dlq.command("show")
@command
def show(
    topic: Topic,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="At most so many.")] = 20,
    where: Where = None,
    as_json: Annotated[bool, typer.Option("--json", help="One object a line, with the stack trace.")] = False,
    bootstrap_servers: Bootstrap = DEFAULT_BOOTSTRAP,
    extra: Extra = None,
) -> None:
    """Show dead letters: where they came from, why, after how many attempts.

    [bold]Examples[/bold]

    penstock dlq show orders.dlq

    penstock dlq show orders.dlq --where exception=Timeout --json | jq .stacktrace
    """
    chosen = _filter(where)
    rows = []
    with _reader(bootstrap_servers, extra) as consumer:
        for record in _all_of(consumer, topic):
            letter = Letter(record)
            if not letter.matches(chosen):
                continue
            rows.append(letter)
            if len(rows) == count:
                break
    if as_json:
        for letter in rows:
            typer.echo(json.dumps(letter.as_dict()))
        return
    table(
        ("place", "origin", "attempts", "exception", "message", "key", "value"),
        [
            (
                letter.place,
                letter.origin,
                letter.attempts,
                letter.exception,
                _cut(letter.message),
                _cut(letter.key),
                _cut(letter.value),
            )
            for letter in rows
        ],
    )


@dlq.command("redrive")
@command
def redrive(
    topic: Topic,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="TOPIC", help="Put them here.", show_default="where each came from"),
    ] = None,
    where: Where = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="At most so many.", show_default="all")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be put where, do not do it.")
    ] = False,
    bootstrap_servers: Bootstrap = DEFAULT_BOOTSTRAP,
    extra: Extra = None,
) -> None:
    """Put dead letters back: key, value and own headers as they were.

    What was redriven is remembered under the group `penstock-redrive.<TOPIC>`, so that the next time goes on behind it; with --where, what
    did not match is passed as well. A redrive that is interrupted may put some back twice. A record that fails again keeps its first
    origin, and counts its rounds.

    [bold]Examples[/bold]

    penstock dlq redrive orders.dlq --dry-run

    penstock dlq redrive orders.dlq --where exception=ConnectionError

    penstock groups reset penstock-redrive.orders.dlq --topic orders.dlq --to beginning
    """
    from ..producer import KafkaProducer

    chosen = _filter(where)
    moved: Counter[str] = Counter()
    passed = 0
    config = client_config(bootstrap_servers, extra)
    with (
        _reader(bootstrap_servers, extra, group_id=f"penstock-redrive.{topic}") as consumer,
        KafkaProducer(**config) as producer,
    ):
        done: dict[TopicPartition, int] = {}
        pending = []
        for record in _all_of(consumer, topic, committed=True):
            letter = Letter(record)
            target = to or letter.topic
            if letter.matches(chosen):
                if target is None:
                    fail(f"{letter.place} does not say where it came from; name a topic with --to")
                moved[target] += 1
                if not dry_run:
                    pending.append(producer.send(target, record.raw_value, record.raw_key, letter.headers))
            else:
                passed += 1
            done[record.topic_partition] = record.offset + 1
            if sys.stderr.isatty() and sum(moved.values()) % 1000 == 0:
                typer.echo(f"\r{sum(moved.values())} records", err=True, nl=False)
            if limit is not None and sum(moved.values()) == limit:
                break
        for future in pending:
            future.result()
        if not dry_run and done:
            consumer.commit(done)
    table(("to", "records"), sorted(moved.items()), "would be put back" if dry_run else "put back")
    if passed:
        typer.echo(f"{passed} records did not match and were passed", err=True)


# ---------------------------------------------------------------- one letter


class Letter:
    """A record of a dead-letter topic, and what its headers say."""

    def __init__(self, record: ConsumerRecord) -> None:
        from ..processing import dead_letters as names

        self._record = record
        found = dict(record.headers)
        self.headers = [header for header in record.headers if header[0] not in names.REPLACED]
        self.place = f"{record.topic}-{record.partition}@{record.offset}"
        self.topic = _text(found.get(names.TOPIC))
        self.partition = _number(found.get(names.PARTITION), ">i")
        self.offset = _number(found.get(names.OFFSET), ">q")
        self.exception = _text(found.get(names.EXCEPTION))
        self.message = _text(found.get(names.MESSAGE))
        self.stacktrace = _text(found.get(names.STACKTRACE))
        self.attempts = _int(found.get(names.ATTEMPTS))
        self.rounds = _int(found.get(names.ROUNDS))
        self.group = _text(found.get(names.GROUP))
        self.is_letter = names.TOPIC in found
        self.key = _text(record.raw_key)
        self.value = _text(record.raw_value)

    @property
    def origin(self) -> str | None:
        return None if self.topic is None else f"{self.topic}-{self.partition}@{self.offset}"

    def matches(self, chosen: dict[str, str]) -> bool:
        return all(text in str(getattr(self, name) or "") for name, text in chosen.items())

    def as_dict(self) -> dict[str, Any]:
        names = (
            "place",
            "topic",
            "partition",
            "offset",
            "group",
            "exception",
            "message",
            "attempts",
            "rounds",
            "key",
            "value",
            "stacktrace",
        )
        return {name: getattr(self, name) for name in names}


def _filter(where: list[str] | None) -> dict[str, str]:
    chosen = pairs(where, "--where")
    known = ("exception", "topic", "partition", "message", "key")
    for name in chosen:
        if name not in known:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(known)}", param_hint="--where")
    return chosen


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")


def _int(value: bytes | None) -> int | None:
    return int(value) if value is not None and value.isdigit() else None


def _number(value: bytes | None, form: str) -> int | None:
    """Binary, or, as other tools write it, text."""
    if value is None:
        return None
    if len(value) == struct.calcsize(form) and not value.isdigit():
        return int(struct.unpack(form, value)[0])
    return _int(value)


def _cut(text: str | None) -> str | None:
    if text is None:
        return None
    line = text.replace("\n", " ")
    return line if len(line) <= _PREVIEW_CHARACTERS else line[: _PREVIEW_CHARACTERS - 1] + "…"


# ---------------------------------------------------------------- reading


def _reader(bootstrap_servers: str, extra: list[str] | None, **own: Any) -> KafkaConsumer:
    from ..consumer import KafkaConsumer

    config = client_config(
        bootstrap_servers,
        extra,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        allow_auto_create_topics=False,
        isolation_level="read_committed",  # a processor that is exactly once writes dead letters in transactions
        **own,
    )
    return KafkaConsumer(**patience(config))


def _topics_with_letters(consumer: KafkaConsumer) -> list[str]:
    """The topics whose last records say that they are dead letters."""
    partitions = {
        TopicPartition(name, info.partition)
        for name, infos in consumer.topics().items()
        if not name.startswith("__")
        for info in infos
    }
    ends = consumer.end_offsets(partitions) if partitions else {}
    firsts = consumer.beginning_offsets(partitions) if partitions else {}
    filled = [tp for tp in sorted(partitions) if ends[tp] > firsts[tp]]
    found: set[str] = set()
    for tp in filled:
        if tp.topic not in found:
            # more than one: the last offsets of a topic with transactions are markers, which are no records
            starts = {tp: max(firsts[tp], ends[tp] - _LAST)}
            if any(Letter(record).is_letter for record in _between(consumer, starts, {tp: ends[tp]})):
                found.add(tp.topic)
    return sorted(found)


def _all_of(consumer: KafkaConsumer, topic: str, committed: bool = False) -> Iterator[ConsumerRecord]:
    """What is there now, from the beginning, or from what the group has committed."""
    partitions = [TopicPartition(topic, info.partition) for info in consumer.partitions_for(topic)]
    if not partitions:
        fail(f"there is no topic {topic!r}; penstock dlq list shows those with dead letters")
    starts, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
    if committed:
        for tp, entry in consumer.committed(partitions).items():
            if entry is not None:
                starts[tp] = max(starts[tp], entry.offset)
    return _between(consumer, starts, ends)


def _between(
    consumer: KafkaConsumer, starts: dict[TopicPartition, int], ends: dict[TopicPartition, int]
) -> Iterator[ConsumerRecord]:
    left = {tp for tp in starts if starts[tp] < ends[tp]}
    if not left:
        return
    consumer.assign(left)
    for tp in left:
        consumer.seek(tp, starts[tp])
    while left:
        for record in consumer.poll(_POLL_MS):
            if record.offset < ends[record.topic_partition]:
                yield record
        left = {tp for tp in left if consumer.position(tp) < ends[tp]}
