"""`penstock groups`: list, describe, reset, delete."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..types import OffsetAndMetadata, TopicPartition
from .options import DEFAULT_BOOTSTRAP, Bootstrap, Extra, client_config, patience
from .output import table
from .running import command, fail
from .start import parse_start, start_offsets
from .topics import admin_client

if TYPE_CHECKING:
    from ..admin import Admin, GroupDescription

groups = typer.Typer(
    no_args_is_help=True, help="List, describe, reset and delete consumer groups.", rich_markup_mode="rich"
)

Name = Annotated[str, typer.Argument(metavar="GROUP", show_default=False)]


@groups.command("list")
@command
def list_groups(bootstrap_servers: Bootstrap = DEFAULT_BOOTSTRAP, extra: Extra = None) -> None:
    """List the consumer groups and their states.

    [bold]Example:[/bold] penstock groups list
    """
    with admin_client(bootstrap_servers, extra) as admin:
        rows = [(group.group_id, group.state or None, group.type or None) for group in admin.list_groups()]
    table(("group", "state", "type"), rows)


@groups.command("describe")
@command
def describe_group(name: Name, bootstrap_servers: Bootstrap = DEFAULT_BOOTSTRAP, extra: Extra = None) -> None:
    """Show a group's members, who owns which partition, what is committed, and the lag.

    [bold]Example:[/bold] penstock groups describe billing
    """
    with admin_client(bootstrap_servers, extra) as admin:
        description = admin.describe_group(name)
        rows = partition_rows(admin, description)
    coordinator = f", coordinator {description.coordinator}" if description.coordinator else ""
    title = (
        f"{name}: {description.state}, {len(description.members)} members, "
        f"assignor {description.protocol or '-'}{coordinator}"
    )
    members = [
        (m.client_id, m.host, m.group_instance_id, len(m.assignment), m.member_id)
        for m in description.members
    ]
    if members:
        table(("client", "host", "instance", "partitions", "member"), members, title)
        typer.echo()
    else:
        typer.echo(title)
    table(("topic", "partition", "committed", "end", "lag", "owner"), rows)


def partition_rows(admin: Admin, description: GroupDescription) -> list[tuple[Any, ...]]:
    """Topic, partition, committed, end, lag and owner of all that the group owns or has committed."""
    owners = {tp: member.client_id for member in description.members for tp in member.assignment}
    committed = admin.group_offsets(description.group_id)
    alive = admin.describe_topics()
    partitions = sorted(tp for tp in owners.keys() | committed.keys() if tp.topic in alive)
    ends = admin.list_offsets(dict.fromkeys(partitions, "latest")) if partitions else {}
    firsts = admin.list_offsets(dict.fromkeys(partitions, "earliest")) if partitions else {}
    rows = []
    for tp in partitions:
        place, end, first = committed.get(tp), ends.get(tp), firsts.get(tp)
        # Without a commit, all that is there is still to be read; below the first offset, what is gone is not.
        done = max(place.offset if place else 0, first.offset if first else 0)
        lag = None if end is None else max(0, end.offset - done)
        owner = owners.get(tp)
        rows.append((tp.topic, tp.partition, place and place.offset, end and end.offset, lag, owner))
    return rows


@groups.command("reset")
@command
def reset_group(
    name: Name,
    topic: Annotated[str, typer.Option("-t", "--topic", help="The topic to reset.", show_default=False)],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="PLACE",
            show_default=False,
            help="beginning, end, an offset, -N for the last N of each partition, or an ISO time.",
        ),
    ],
    partition: Annotated[
        list[int] | None, typer.Option("-p", "--partition", min=0, help="Only this partition.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show it, do not do it.")] = False,
    bootstrap_servers: Bootstrap = DEFAULT_BOOTSTRAP,
    extra: Extra = None,
) -> None:
    """Set what a group has committed, forwards or back. The group must have no members.

    [bold]Examples[/bold]

    penstock groups reset billing --topic orders --to 2026-11-22T08:30 --dry-run

    penstock groups reset billing --topic orders --to beginning
    """
    try:
        place = parse_start(to)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--to") from None
    from ..consumer import KafkaConsumer

    with admin_client(bootstrap_servers, extra) as admin:
        known = {p.partition for p in admin.describe_topics([topic])[topic].partitions}
        wanted = set(partition) if partition else known
        if not wanted <= known:
            fail(f"topic {topic!r} has no partition {', '.join(map(str, sorted(wanted - known)))}")
        with KafkaConsumer(**patience(client_config(bootstrap_servers, extra))) as consumer:
            targets = start_offsets(
                consumer, [TopicPartition(topic, number) for number in sorted(wanted)], place
            )
        before = admin.group_offsets(name)
        if not dry_run:
            admin.alter_group_offsets(name, {tp: OffsetAndMetadata(offset) for tp, offset in targets.items()})
    rows = [
        (tp.topic, tp.partition, before[tp].offset if tp in before else None, offset)
        for tp, offset in sorted(targets.items())
    ]
    table(("topic", "partition", "before", "not done: after" if dry_run else "after"), rows)


@groups.command("delete")
@command
def delete_groups(
    names: Annotated[list[str], typer.Argument(metavar="GROUP", show_default=False)],
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    bootstrap_servers: Bootstrap = DEFAULT_BOOTSTRAP,
    extra: Extra = None,
) -> None:
    """Delete groups without members, with all they have committed. Asks first on a terminal.

    [bold]Example:[/bold] penstock groups delete billing --yes
    """
    if not yes and sys.stdin.isatty():
        typer.confirm(f"Delete {', '.join(names)} with all committed offsets?", abort=True)
    with admin_client(bootstrap_servers, extra) as admin:
        admin.delete_groups(names)
