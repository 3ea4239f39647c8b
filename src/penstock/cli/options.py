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

_OWN_DEFAULTS = {"client.id": "penstock-cli"}


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
    config: dict[str, Any] = {"bootstrap.servers": bootstrap_servers, **_OWN_DEFAULTS}
    config.update({name.replace("_", "."): value for name, value in own.items()})
    config.update({name.replace("_", "."): value for name, value in pairs(extra, "-X").items()})
    return config
