"""The tree of commands. Each module of commands imports the client only when one of its commands runs."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from .broker import broker
from .consume import consume
from .dlq import dlq
from .groups import groups
from .produce import produce
from .run import run
from .topics import topics

app = typer.Typer(
    name="penstock",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Every command has its own help, with examples: [bold]penstock consume --help[/bold]",
)
app.add_typer(topics, name="topics")
app.command()(produce)
app.command()(consume)
app.add_typer(groups, name="groups")
app.command()(run)
app.add_typer(dlq, name="dlq")
app.command()(broker)


def _version(wanted: bool) -> None:
    if wanted:
        from penstock import __version__

        typer.echo(f"penstock {__version__}")
        raise typer.Exit


@app.callback()
def penstock(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[
        int, typer.Option("-v", "--verbose", count=True, help="Log what happens inside; twice for more.")
    ] = 0,
) -> None:
    """Read and write Kafka topics, run processors, look after topics, groups and dead letters, run an embedded broker."""
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
