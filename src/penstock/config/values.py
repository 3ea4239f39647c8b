"""From what a user passes to an option's value: types, ranges, choices."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from typing import Any, Final

from ..errors import ConfigError
from .durations import reset_duration_ms
from .option import INT_MAX, LONG_MAX, REQUIRED, ClientKind, Kind, Option, Status
from .table import ASSIGNOR_CLASSES

_WANTED: Final = {
    Kind.BOOLEAN: "True or False",
    Kind.INT: "an int",
    Kind.LONG: "an int",
    Kind.DOUBLE: "a number",
    Kind.STRING: "a str",
    Kind.LIST: "a list of str, or a str with commas",
    Kind.PASSWORD: "a str",
    Kind.CALLABLE: "a function, or None",
    Kind.OBJECTS: "a list of objects, classes or str",
}
_LIMITS: Final = {Kind.INT: (-INT_MAX - 1, INT_MAX), Kind.LONG: (-LONG_MAX - 1, LONG_MAX)}


def parse(option: Option, value: Any, client: ClientKind) -> Any:
    """The checked value of an option. ConfigError names the option, the value, its type and what is wanted."""
    default = option.default_for(client)
    if value is None and default is None:
        return None
    if value is None:
        raise _wrong(
            option, value, "" if default in (REQUIRED, ()) else f"leave it out for the default, {default!r}"
        )
    parsed = _PARSERS_BY_NAME.get(option.name, _PARSERS[option.kind])(option, value)
    _check_range(option, value, parsed)
    parsed = _check_choices(option, value, parsed)
    if option.name in _SPECIAL:
        parsed = _SPECIAL[option.name](option, parsed)
    if option.status is Status.NOT_YET and parsed != default:
        raise ConfigError(
            f"{option.name}={_show(option, value)} is not in this version yet: {option.instead}"
        )
    return parsed


def _show(option: Option, value: Any) -> str:
    return "[hidden]" if option.kind is Kind.PASSWORD else repr(value)


def _wrong(option: Option, value: Any, hint: str = "", wanted: str | None = None) -> ConfigError:
    message = (
        f"{option.name}={_show(option, value)} is of type {type(value).__name__}; "
        f"{wanted or _WANTED[option.kind]} is wanted"
    )
    return ConfigError(f"{message} ({hint})" if hint else message)


def _boolean(option: Option, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    raise _wrong(option, value)


def _is_int(value: Any) -> bool:
    if isinstance(value, str):
        return re.fullmatch(r"[+-]?[0-9]+", value.strip()) is not None
    return isinstance(value, int) and not isinstance(value, bool)


def _int(option: Option, value: Any) -> int:
    wanted = "an int (milliseconds) or a timedelta" if option.is_milliseconds else None
    if option.is_milliseconds and isinstance(value, datetime.timedelta):
        number = value // datetime.timedelta(milliseconds=1)
    elif _is_int(value):
        number = int(value)
    else:
        raise _wrong(option, value, wanted=wanted)
    low, high = _LIMITS[option.kind]
    if not low <= number <= high:
        raise ConfigError(
            f"{option.name}={value!r} does not fit in Kafka's {option.kind.value}: {low} to {high}"
        )
    return number


def _double(option: Option, value: Any) -> float:
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError
        return float(value)
    except ValueError:
        raise _wrong(option, value) from None


def _string(option: Option, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(option, value)
    return value if option.kind is Kind.PASSWORD else value.strip()


def _list(option: Option, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, bytes) or not isinstance(value, Iterable):
        raise _wrong(option, value)
    items = tuple(value)
    for item in items:
        if not isinstance(item, str):
            raise _wrong(option, value, f"the entry {item!r} is of type {type(item).__name__}")
    return tuple(item.strip() for item in items)


def _strategy(option: Option, value: Any) -> tuple[Any, ...]:
    """Names, and assignors of one's own: what an assignor is, the room of groups knows and checks."""
    if isinstance(value, str):
        return _list(option, value)
    if _may_be_assignor(value):
        return (value,)
    wanted = "a list of assignors' names or Assignors"
    if isinstance(value, bytes) or not isinstance(value, Iterable):
        raise _wrong(option, value, wanted=wanted)
    items = tuple(value)
    for item in items:
        if not isinstance(item, str) and not _may_be_assignor(item):
            raise _wrong(option, value, f"the entry {item!r} is of type {type(item).__name__}", wanted)
    return tuple(item.strip() if isinstance(item, str) else item for item in items)


def _may_be_assignor(value: Any) -> bool:
    return isinstance(getattr(value, "name", None), str) and callable(getattr(value, "assign", None))


def _objects(option: Option, value: Any) -> tuple[Any, ...]:
    """Names, classes and instances as they are: what they must be, those who use them know."""
    if isinstance(value, str):
        return _list(option, value)
    if isinstance(value, bytes) or not isinstance(value, Iterable):
        raise _wrong(option, value)
    return tuple(item.strip() if isinstance(item, str) else item for item in value)


def _callable(option: Option, value: Any) -> Any:
    if not callable(value):
        hint = "Java class names mean nothing here; give e.g. bytes.decode" if isinstance(value, str) else ""
        raise _wrong(option, value, hint)
    return value


_PARSERS: Final = {
    Kind.BOOLEAN: _boolean,
    Kind.INT: _int,
    Kind.LONG: _int,
    Kind.DOUBLE: _double,
    Kind.STRING: _string,
    Kind.LIST: _list,
    Kind.PASSWORD: _string,
    Kind.CALLABLE: _callable,
    Kind.OBJECTS: _objects,
}
_PARSERS_BY_NAME: Final[dict[str, Any]] = {"partition.assignment.strategy": _strategy}


def _check_range(option: Option, value: Any, parsed: Any) -> None:
    if not isinstance(parsed, (int, float)):
        return
    low, high = option.minimum, option.maximum
    if (low is not None and not parsed >= low) or (high is not None and not parsed <= high):
        bounds = (
            f"at least {low}"
            if high is None
            else f"at most {high}"
            if low is None
            else f"from {low} to {high}"
        )
        raise ConfigError(f"{option.name}={value!r} is out of range: {bounds} is wanted")


def _check_choices(option: Option, value: Any, parsed: Any) -> Any:
    """Kafka compares some of these without regard to case and some with; here all are without."""
    if not option.choices:
        return parsed
    known = {choice.lower(): choice for choice in option.choices}
    entries = parsed if isinstance(parsed, tuple) else (parsed,)
    chosen: list[Any] = []
    for entry in entries:
        if not isinstance(entry, str):  # an assignor of the user's own
            chosen.append(entry)
            continue
        name = ASSIGNOR_CLASSES.get(entry, entry) if option.kind is Kind.LIST else entry
        choice = known.get(name.lower())
        if choice is None:
            offered = ", ".join(c for c in option.choices if c not in option.not_yet)
            raise ConfigError(f"{option.name}={value!r}: {entry!r} is not one of {offered}")
        if choice in option.not_yet:
            offered = ", ".join(c for c in option.choices if c not in option.not_yet)
            raise ConfigError(
                f"{option.name}={value!r}: {choice} is not in this version yet; it has {offered}"
            )
        chosen.append(choice)
    return tuple(chosen) if isinstance(parsed, tuple) else chosen[0]


# ------------------------------------------------------------ options with a syntax of their own


def _bootstrap_servers(option: Option, servers: tuple[str, ...]) -> tuple[str, ...]:
    if not servers:
        raise ConfigError(
            f"{option.name} is empty: give host:port of at least one broker, e.g. localhost:9092"
        )
    for server in servers:
        _check_server(option, server)
    return servers


def _check_server(option: Option, server: str) -> None:
    scheme, _, address = server.rpartition("://")
    if scheme and scheme.upper() not in ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"):
        raise ConfigError(
            f"{option.name}: {server!r} is no address; host:port is wanted, e.g. localhost:9092"
        )
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or (address.startswith("[") and address.endswith("]")):
        raise ConfigError(f"{option.name}: {server!r} has no port; host:port is wanted, e.g. {address}:9092")
    if re.fullmatch(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*", host):
        raise ConfigError(
            f"{option.name}: the IPv6 address in {server!r} needs brackets, as in [{host}]:{port}"
        )
    inner = host[1:-1] if bracketed else host
    if not inner or re.search(r"[\s/@,;\[\]]", inner) or (":" in inner and not bracketed):
        raise ConfigError(
            f"{option.name}: {server!r} has no valid host; host:port is wanted, e.g. localhost:9092"
        )
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65_535:
        raise ConfigError(
            f"{option.name}: {port!r} in {server!r} is no port; a number from 1 to 65535 is wanted"
        )


def _offset_reset(option: Option, strategy: str) -> str:
    if strategy.lower() in ("earliest", "latest", "none"):
        return strategy.lower()
    try:
        if reset_duration_ms(strategy) is not None:
            return strategy
    except ValueError as error:
        raise ConfigError(f"{option.name}: {error}") from None
    raise ConfigError(
        f"{option.name}={strategy!r} is not one of earliest, latest, none, by_duration:PnDTnHnMnS (e.g. by_duration:PT1H)"
    )


def _assignors(option: Option, entries: tuple[Any, ...]) -> tuple[Any, ...]:
    """A name that is given twice counts once; of two different assignors with one name, a group could not tell which is meant."""
    if not entries:
        raise ConfigError(f"{option.name} is empty: give at least one assignor, e.g. range")
    found: dict[str, Any] = {}
    for entry in entries:
        name = entry if isinstance(entry, str) else entry.name
        first = found.setdefault(name, entry)
        if first is not entry and first != entry:
            raise ConfigError(
                f"{option.name} has two assignors named {name!r}: {first!r} and {entry!r}; give one of them another name"
            )
    return tuple(found.values())


def _not_empty(option: Option, text: str) -> str:
    if not text:
        raise ConfigError(f"{option.name} is empty: give it a name, or leave it out")
    return text


def _gzip_level(option: Option, level: int) -> int:
    if level == 0:
        raise ConfigError(f"{option.name}=0 is out of range: from 1 to 9, or -1, is wanted")
    return level


_SPECIAL: Final[dict[str, Any]] = {
    "bootstrap.servers": _bootstrap_servers,
    "auto.offset.reset": _offset_reset,
    "partition.assignment.strategy": _assignors,
    "group.id": _not_empty,
    "group.instance.id": _not_empty,
    "transactional.id": _not_empty,
    "compression.gzip.level": _gzip_level,
}
