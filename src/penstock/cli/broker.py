"""`penstock broker`: the embedded broker as a process."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import pairs
from .running import command, fail

if TYPE_CHECKING:
    from ..devbroker import DevBroker

ALIVE_CHECK_S = 1.0


@command
def broker(
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="0 for a free one.")] = 9092,
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir", file_okay=False, help="Keep topics and offsets here.", show_default="in memory"
        ),
    ] = None,
    topic: Annotated[
        list[str] | None,
        typer.Option(
            "--topic", metavar="NAME[:PARTITIONS]", help="Have this topic; may be given several times."
        ),
    ] = None,
    extra: Annotated[
        list[str] | None,
        typer.Option("-X", metavar="NAME=VALUE", help="A setting of the broker, by Kafka's name."),
    ] = None,
) -> None:
    """Run the embedded broker until Ctrl-C. It is for development and tests; production is a Kafka cluster.

    Once clients can connect, it writes its address to standard output.

    [bold]Examples[/bold]

    penstock broker --topic orders:3

    penstock broker --port 0 --data-dir ./data -X num.partitions=3
    """
    wanted = [_topic(text) for text in topic or ()]
    options: dict[str, Any] = dict(pairs(extra, "-X"))
    from ..devbroker import DevBroker

    try:
        instance = DevBroker(data_dir, host=host, port=port, **options)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="-X") from None
    with instance:
        for name, partitions in wanted:
            _ensure_topic(instance, name, partitions)
        typer.echo(instance.bootstrap_servers)
        while instance.running:
            # Waiting in slices: Ctrl-C and SIGTERM raise in here, and a broker that broke down ends the command.
            threading.Event().wait(ALIVE_CHECK_S)
    fail("the embedded broker ended by itself; its log says why")


def _topic(text: str) -> tuple[str, int]:
    """NAME or NAME:PARTITIONS; a topic's name cannot hold a colon."""
    name, colon, number = text.partition(":")
    if not name or (colon and not (number.isdecimal() and int(number) > 0)):
        raise typer.BadParameter(f"{text!r} is not NAME or NAME:PARTITIONS", param_hint="--topic")
    return name, int(number) if colon else 1


def _ensure_topic(instance: DevBroker, name: str, partitions: int) -> None:
    try:
        found = len(instance.end_offsets(name))
    except KeyError:
        try:
            instance.create_topic(name, partitions)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--topic") from None
        return
    if found != partitions:
        fail(f"topic {name!r} is there with {found} partitions, {partitions} were asked for")
