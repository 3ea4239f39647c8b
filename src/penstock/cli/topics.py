"""`penstock topics`: list, create, describe, delete."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..types import TopicPartition
from .options import DEFAULT_BOOTSTRAP, Bootstrap, Extra, client_config, pairs, patience
from .output import table
from .running import command

if TYPE_CHECKING:
    from ..admin import Admin, TopicDescription

topics = typer.Typer(
    no_args_is_help=True, help="List, create, describe and delete topics.", rich_markup_mode="rich"
)

Names = Annotated[list[str], typer.Argument(metavar="TOPIC", show_default=False)]


def admin_client(bootstrap_servers: str, extra: list[str] | None) -> Admin:
    """An Admin from the options that every command has."""
    from ..admin import Admin

    return Admin(**patience(client_config(bootstrap_servers, extra)))


@topics.command("list")
@command
def list_topics(
    internal: Annotated[bool, typer.Option("--internal", help="Kafka's own topics too.")] = False,
    bootstrap_servers: Bootstrap = DEFAULT_BOOTSTRAP,
    extra: Extra = None,
) -> None:
    """List the topics, one name a line.

    [bold]Example:[/bold] penstock topics list -b localhost:9092
    """
    with admin_client(bootstrap_servers, extra) as admin:
        for name, description in sorted(admin.describe_topics().items()):
            if internal or not description.is_internal:
                typer.echo(name)


@topics.command("create")
@command
def create_topics(
    names: Names,
    partitions: Annotated[
        int | None,
        typer.Option("-p", "--partitions", min=1, help="Partitions.", show_default="the cluster's"),
    ] = None,
    replication_factor: Annotated[
        int | None,
        typer.Option("-r", "--replication-factor", min=1, help="Replicas.", show_default="the cluster's"),
    ] = None,
    config: Annotated[
        list[str] | None, typer.Option("-c", "--config", metavar="NAME=VALUE", help="An option of the topic.")
    ] = None,
    if_not_exists: Annotated[
        bool, typer.Option("--if-not-exists", help="Leave topics that exist as they are.")
    ] = False,
    bootstrap_servers: Bootstrap = DEFAULT_BOOTSTRAP,
    extra: Extra = None,
) -> None:
    """Create topics.

    [bold]Example:[/bold] penstock topics create orders -p 6 -c cleanup.policy=compact
    """
    from ..admin import NewTopic

    configs: dict[str, object] = dict(pairs(config, "--config"))
    with admin_client(bootstrap_servers, extra) as admin:
        existing = set(admin.describe_topics()) if if_not_exists else set()
        wanted = [name for name in names if name not in existing]
        if wanted:
            admin.create_topics(
                [NewTopic(name, partitions or -1, replication_factor or -1, configs) for name in wanted]
            )


@topics.command("describe")
@command
def describe_topics(
    names: Names,
    config: Annotated[
        bool, typer.Option("--config", help="The options that were set for the topic too.")
    ] = False,
    bootstrap_servers: Bootstrap = DEFAULT_BOOTSTRAP,
    extra: Extra = None,
) -> None:
    """Show the partitions of topics: where they live, and which offsets they hold.

    [bold]Example:[/bold] penstock topics describe orders
    """
    with admin_client(bootstrap_servers, extra) as admin:
        for name, description in admin.describe_topics(names).items():
            title = (
                f"{name}: {len(description.partitions)} partitions, id {description.topic_id or 'unknown'}"
            )
            headers = ("partition", "leader", "replicas", "in sync", "first offset", "end offset")
            table(headers, _partition_rows(admin, description), title)
            if config:
                entries = admin.describe_configs(name).values()
                rows = [(e.name, e.value) for e in entries if not e.is_default]
                table(("option", "value"), rows, f"{name}: options set")


def _partition_rows(admin: Admin, description: TopicDescription) -> list[tuple[Any, ...]]:
    led = [TopicPartition(p.topic, p.partition) for p in description.partitions if p.leader is not None]
    firsts = admin.list_offsets(dict.fromkeys(led, "earliest"))
    ends = admin.list_offsets(dict.fromkeys(led, "latest"))
    rows = []
    for info in sorted(description.partitions, key=lambda p: p.partition):
        tp = TopicPartition(info.topic, info.partition)
        first, end = firsts.get(tp), ends.get(tp)
        rows.append(
            (
                info.partition,
                None if info.leader is None else f"{info.leader.id} ({info.leader.host}:{info.leader.port})",
                ",".join(map(str, info.replicas)),
                ",".join(map(str, info.in_sync_replicas)),
                None if first is None else first.offset,
                None if end is None else end.offset,
            )
        )
    return rows


@topics.command("delete")
@command
def delete_topics(
    names: Names,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    bootstrap_servers: Bootstrap = DEFAULT_BOOTSTRAP,
    extra: Extra = None,
) -> None:
    """Delete topics with all their records. Asks first on a terminal.

    [bold]Example:[/bold] penstock topics delete orders --yes
    """
    if not yes and sys.stdin.isatty():
        typer.confirm(f"Delete {', '.join(names)} with all records?", abort=True)
    with admin_client(bootstrap_servers, extra) as admin:
        admin.delete_topics(names)
