"""`penstock run`: a processor, in one process or several."""

from __future__ import annotations

import contextlib
import logging
from typing import Annotated

import typer

from .options import Extra, pairs
from .running import command


@command
def run(
    where: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:NAME",
            help="The Processor: app:processor for `processor` of app.py.",
            show_default=False,
        ),
    ],
    instances: Annotated[
        int, typer.Option("-n", "--instances", min=1, help="How many processes of the group.")
    ] = 1,
    standbys: Annotated[
        int,
        typer.Option("--standbys", min=0, help="Processes that wait, with all imported, for one that ends."),
    ] = 0,
    static: Annotated[
        bool,
        typer.Option(
            "--static",
            help="Give each instance a group.instance.id: a restart causes no rebalance. With --standbys always.",
        ),
    ] = False,
    probe_port: Annotated[
        int | None,
        typer.Option(
            "--probe-port", min=0, max=65535, help="Answer GET /ready and /live here.", show_default="none"
        ),
    ] = None,
    probe_host: Annotated[
        str, typer.Option("--probe-host", help="The address that probes are answered on.")
    ] = "127.0.0.1",
    grace_s: Annotated[
        float, typer.Option("--grace", min=0, metavar="SECONDS", help="How long a stop may take.")
    ] = 30.0,
    extra: Extra = None,
) -> None:
    """Run a processor until Ctrl-C or SIGTERM: what runs is finished, offsets are committed, the group is left.

    Several instances are processes of one group. One that dies is started again; with standbys, one of these takes its place at once.

    [bold]Examples[/bold]

    penstock run app:processor

    penstock run app:processor --instances 4 --standbys 1 --probe-port 8080

    penstock run app:processor -X group.id=billing-test
    """
    from ..processing.probes import Probes

    logging.getLogger("penstock.processing").setLevel(
        min(logging.INFO, logging.getLogger().getEffectiveLevel())
    )
    options = pairs(extra, "-X")
    with contextlib.ExitStack() as stack:
        if instances == 1 and not standbys:
            from ..processing.loading import load

            processor = load(where)
            if static:
                options["group.instance.id"] = f"{processor.group_id}-1"
            if options:
                processor.configure(**options)
            if probe_port is not None:
                probes = stack.enter_context(
                    Probes(lambda: processor.health().as_dict(), probe_port, probe_host)
                )
                _tell_probes(probe_host, probes.port)
            processor.run()
            return
        from ..processing.supervisor import Supervisor

        supervisor = Supervisor(
            where,
            instances=instances,
            standbys=standbys,
            grace_s=grace_s,
            static=static,
            options=tuple(f"{name}={value}" for name, value in options.items()),
            say=lambda text: typer.echo(text, err=True),
        )
        if probe_port is not None:
            probes = stack.enter_context(Probes(supervisor.health, probe_port, probe_host))
            _tell_probes(probe_host, probes.port)
        exit_code = supervisor.run()
    if exit_code:
        raise typer.Exit(exit_code)


def _tell_probes(host: str, port: int) -> None:
    typer.echo(f"probes: http://{host}:{port}/ready and /live", err=True)
