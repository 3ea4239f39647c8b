"""Writes docs/configuration.md from the table of options: python tools/generate_config_reference.py"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from penstock.config import BY_CLIENT, ClientKind, Kind, Option, Status
from penstock.config.option import REQUIRED

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
_IMPORTANCE = ("high", "medium", "low")
_TITLES: dict[ClientKind, str] = {
    "consumer": "The consumer's options",
    "producer": "The producer's options",
    "admin": "The admin client's options",
}
_HEAD = """\
# Configuration

<!-- Generated from src/penstock/config by tools/generate_config_reference.py: edit there. -->

Names, types and defaults are those of Apache Kafka 4.3; penstock's own options and other defaults say so. An option is given
by its dotted name or in Python's spelling, one of the two:

```python
KafkaConsumer("my-topic", **{"bootstrap.servers": "localhost:9092", "group.id": "my-group"})
KafkaConsumer("my-topic", bootstrap_servers="localhost:9092", group_id="my-group")
```

A name that does not exist, a value of the wrong type or out of range, and options that contradict each other raise
`ConfigError` when the client is made. Numbers and booleans may be texts (`"500"`, `"true"`), lists may be texts with commas,
and options that end in `.ms` take a `datetime.timedelta` as well as milliseconds.
"""


def page() -> str:
    """The whole page."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield _HEAD
    for client, title in _TITLES.items():
        options = BY_CLIENT[client].values()
        yield f"## {title}\n"
        works = [option for option in options if option.status is Status.WORKS]
        for option in sorted(
            works, key=lambda o: (o.default_for(client) is not REQUIRED, _IMPORTANCE.index(o.importance))
        ):
            yield from _entry(option, client)
        yield from _table(
            "Accepted, without effect", [o for o in options if o.status is Status.NO_EFFECT], client
        )
        yield from _table(
            "Not in this version yet: any other value than the default is an error",
            [o for o in options if o.status is Status.NOT_YET],
            client,
        )


def _entry(option: Option, client: ClientKind) -> Iterator[str]:
    facts = [_type(option), _default(option, client), *_range(option), f"importance {option.importance}"]
    if option.own:
        facts.append("penstock's own")
    yield f"### `{option.name}`\n"
    yield f"{option.doc}\n"
    yield f"*{'; '.join(facts)}*\n"


def _table(title: str, options: list[Option], client: ClientKind) -> Iterator[str]:
    if not options:
        return
    yield f"### {title}\n"
    yield "| option | type | default | meaning | instead |"
    yield "| --- | --- | --- | --- | --- |"
    for option in options:
        default = _shown(option.default_for(client))
        yield f"| `{option.name}` | {_type(option)} | {default} | {option.doc} | {option.instead} |"
    yield ""


def _type(option: Option) -> str:
    name = "function" if option.kind is Kind.CALLABLE else option.kind.value
    return f"{name}, milliseconds" if option.is_milliseconds else name


def _default(option: Option, client: ClientKind) -> str:
    default = option.default_for(client)
    return "required" if default is REQUIRED else f"default {_shown(default)}"


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if value in ("", ()):
        return "empty"
    if isinstance(value, tuple):
        return "`" + ", ".join(value) + "`"
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{value}`"


def _range(option: Option) -> Iterator[str]:
    offered = [choice for choice in option.choices if choice not in option.not_yet]
    if offered:
        yield "one of " + ", ".join(f"`{choice}`" for choice in offered)
    if option.not_yet:
        yield "not in this version yet: " + ", ".join(f"`{choice}`" for choice in option.not_yet)
    if option.minimum is not None and option.maximum is not None:
        yield f"from {option.minimum} to {option.maximum}"
    elif option.minimum is not None:
        yield f"at least {option.minimum}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
