"""`penstock produce`: lines into a topic."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Protocol

import typer

from ..types import RecordMetadata
from .options import DEFAULT_BOOTSTRAP, Bootstrap, Extra, client_config
from .running import command, fail

if TYPE_CHECKING:
    from ..producer import KafkaProducer

BATCH_BYTES = 131_072
MAX_BLOCK_MS = 15_000
PROGRESS_RECORDS = 500
PACE_S = 0.005


class Compression(StrEnum):
    none = "none"
    gzip = "gzip"
    snappy = "snappy"
    lz4 = "lz4"
    zstd = "zstd"


class Deliveries:
    """What became of the records. Written by the producer's thread, read by ours; a count may lag, nothing more."""

    def __init__(self) -> None:
        self.stored = 0
        self.lost = 0
        self.error: BaseException | None = None

    def __call__(self, metadata: RecordMetadata | None, error: BaseException | None) -> None:
        if error is None:
            self.stored += 1
        else:
            self.lost += 1
            self.error = self.error or error


class Progress(Protocol):
    """Told now and then how many bytes were read and records sent."""

    def __call__(self, read_bytes: int, records: int) -> None: ...


@command
def produce(
    topic: Annotated[str, typer.Argument(help="The topic to write to.", show_default=False)],
    bootstrap_servers: Bootstrap = DEFAULT_BOOTSTRAP,
    file: Annotated[
        Path | None,
        typer.Option("--file", exists=True, dir_okay=False, readable=True, help="Read lines from here."),
    ] = None,
    key_separator: Annotated[
        str | None, typer.Option("-k", "--key-separator", help="Each line is a key, this, and a value.")
    ] = None,
    partition: Annotated[
        int | None, typer.Option("-p", "--partition", min=0, help="Write to this one.")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option("--rate", min=0.001, help="At most so many records a second.", show_default="no limit"),
    ] = None,
    compression: Annotated[Compression, typer.Option("-c", "--compression")] = Compression.none,
    extra: Extra = None,
) -> None:
    """Write each line of standard input, or of a file, as one record. Ends when all are stored, or tells which is not.

    [bold]Examples[/bold]

    echo hello | penstock produce greetings

    penstock produce orders --file orders.jsonl --compression zstd

    printf 'alice:1\\nbob:2\\n' | penstock produce visits --key-separator : --rate 10
    """
    if key_separator == "":
        raise typer.BadParameter("a separator has at least one character", param_hint="--key-separator")
    from ..producer import KafkaProducer

    config = client_config(
        bootstrap_servers,
        extra,
        batch_size=BATCH_BYTES,
        compression_type=compression.value,
        max_block_ms=MAX_BLOCK_MS,
    )
    deliveries = Deliveries()
    started = time.monotonic()
    separator = key_separator.encode() if key_separator else None
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(file.open("rb")) if file else sys.stdin.buffer
        producer = stack.enter_context(KafkaProducer(**config))
        progress = stack.enter_context(_progress(file))
        _send(producer, topic, partition, source, separator, rate, deliveries, progress)
        producer.flush()
    if deliveries.error is not None:
        fail(
            f"{deliveries.lost} records were not stored, {deliveries.stored} were. The first error: {deliveries.error}"
        )
    if sys.stderr.isatty():
        seconds = time.monotonic() - started
        typer.echo(
            f"{deliveries.stored:,} records to {topic} in {seconds:.1f} s, {deliveries.stored / seconds:,.0f} a second",
            err=True,
        )


def _send(
    producer: KafkaProducer,
    topic: str,
    partition: int | None,
    source: BinaryIO,
    separator: bytes | None,
    rate: float | None,
    deliveries: Deliveries,
    progress: Progress,
) -> None:
    """Hand over line by line, until the input ends or a record was refused. The producer's memory bounds what is on its way."""
    started = time.monotonic()
    read_bytes = 0
    for number, line in enumerate(source, 1):
        read_bytes += len(line)
        key, value = split_line(line, separator, number)
        producer.produce(topic, value, key, partition=partition, on_delivery=deliveries)
        if deliveries.error is not None:
            return
        if number % PROGRESS_RECORDS == 0 or rate is not None:
            progress(read_bytes, number)
        if rate is not None:
            ahead_s = started + number / rate - time.monotonic()
            if ahead_s > PACE_S:
                time.sleep(ahead_s)


def split_line(line: bytes, separator: bytes | None, number: int) -> tuple[bytes | None, bytes]:
    """The key and the value of a line, without its end (LF or CR LF)."""
    text = line.removesuffix(b"\r\n") if line.endswith(b"\r\n") else line.removesuffix(b"\n")
    if separator is None:
        return None, text
    key, found, value = text.partition(separator)
    if not found:
        fail(
            f"line {number} has no key separator {separator.decode()!r}: {text[:60].decode(errors='replace')!r}; "
            "the lines before it were sent"
        )
    return key, value


@contextlib.contextmanager
def _progress(file: Path | None) -> Iterator[Progress]:
    """A bar on a terminal, unless the user is typing into it."""
    if not sys.stderr.isatty() or (file is None and sys.stdin.isatty()):
        yield lambda read_bytes, records: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.fields[records]:,} records"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=file.stat().st_size if file else None, records=0)
        yield lambda read_bytes, records: bar.update(task, completed=read_bytes, records=records)
