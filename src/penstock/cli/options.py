"""Options that several commands share, and what they mean for a client."""

from __future__ import annotations

from typing import Annotated, Any

import typer

Bootstrap = Annotated[
    str,
    typer.Option(
        "-b",
        "--bootstrap-servers",
        envvar="PENSTOCK_BOOTSTRAP_SERVERS",
        metavar="HOST:PORT,...",
        help="Brokers to begin with.",
    ),
]
Extra = Annotated[
    list[str] | None,
    typer.Option(
        "-X",
        metavar="NAME=VALUE",
        help="Any option of the client, by Kafka's name; may be given several times.",
    ),
]

DEFAULT_BOOTSTRAP = "localhost:9092"

# Someone waits at the terminal: an answer, or a refusal, comes sooner than Kafka's minute.
IMPATIENT = {"default.api.timeout.ms": 15_000, "request.timeout.ms": 10_000}


def pairs(given: list[str] | None, option: str) -> dict[str, str]:
    """NAME=VALUE texts as a dict. A wrong one ends the command with a usage error."""
    found: dict[str, str] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint=option)
        found[name] = value
    return found


def client_config(bootstrap_servers: str, extra: list[str] | None, **own: Any) -> dict[str, Any]:
    """The keywords for a client. `own` are the command's options in snake_case; what the user gives with -X wins."""
    config: dict[str, Any] = {"bootstrap.servers": bootstrap_servers, "client.id": "penstock-cli"}
    config.update({name.replace("_", "."): value for name, value in own.items()})
    config.update({name.replace("_", "."): value for name, value in pairs(extra, "-X").items()})
    return config


def patience(config: dict[str, Any]) -> dict[str, Any]:
    """The same for an Admin or a consumer, which gives up early unless the user said how long to try."""
    return config if IMPATIENT.keys() & config.keys() else {**IMPATIENT, **config}
