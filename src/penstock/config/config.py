"""Options resolved: names checked, values parsed, defaults filled in, contradictions found."""

from __future__ import annotations

import builtins
import difflib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeVar

from ..errors import ConfigError
from .option import REQUIRED, ClientKind, Kind
from .table import BY_CLIENT
from .values import parse

T = TypeVar("T")

_ELSEWHERE: Final[Mapping[str, str]] = MappingProxyType(
    {  # what other clients for Python call it, or do not need here
        "api.version": "nothing to set: versions are negotiated with each broker",
        "broker.version.fallback": "nothing to set: versions are negotiated with each broker",
        "consumer.timeout.ms": "pass a timeout to poll()",
        "default.topic.config": "give its options directly",
        "enable.auto.offset.store": "commit what you mean: commit(offsets)",
        "enable.partition.eof": "compare position() with end_offsets()",
        "error.cb": "errors are raised by poll() and the other calls",
        "fetch.wait.max.ms": "its name is 'fetch.max.wait.ms'",
        "fetch.message.max.bytes": "its name is 'max.partition.fetch.bytes'",
        "metadata.broker.list": "its name is 'bootstrap.servers'",
        "on.commit": "pass a callback to commit_async()",
        "queued.max.messages.kbytes": "its name is 'fetch.buffer.bytes', in bytes",
        "stats.cb": "call metrics() when you want to know",
        "statistics.interval.ms": "call metrics() when you want to know",
    }
)


class Config(Mapping[str, Any]):
    """The options of one client by Kafka's dotted names, all of them, checked. Read only.

    `given` names those that the user set; the others have their defaults.
    """

    __slots__ = ("_client", "_values", "given")

    def __init__(self, client: ClientKind, values: Mapping[str, Any], given: frozenset[str]) -> None:
        self._client = client
        self._values = MappingProxyType(dict(values))
        self.given = given

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[builtins.str]:
        return iter(self._values)

    def __len__(self) -> builtins.int:
        return len(self._values)

    def int(self, name: builtins.str) -> builtins.int:
        """The value of an option that is a whole number. TypeError for an option of another type."""
        return self._typed(name, builtins.int)

    def str(self, name: builtins.str) -> builtins.str:
        """The value of an option that is a text and set. TypeError for another type, or None."""
        return self._typed(name, builtins.str)

    def bool(self, name: builtins.str) -> builtins.bool:
        """The value of an option that is true or false. TypeError for an option of another type."""
        return self._typed(name, builtins.bool)

    def _typed(self, name: builtins.str, kind: type[T]) -> T:
        value: object = self._values[name]
        if type(value) is not kind:
            raise TypeError(f"the option {name} is {value!r}, no {kind.__name__}")
        return value

    def __repr__(self) -> builtins.str:
        options = BY_CLIENT[self._client]
        shown = ", ".join(
            f"{name}={'[hidden]' if options[name].kind is Kind.PASSWORD else repr(self._values[name])}"
            for name in sorted(self.given)
        )
        return f"<Config of a {self._client}: {shown or 'defaults'}>"


def resolve(
    kind: ClientKind, given: Mapping[str, Any], keywords: Mapping[str, Any] = MappingProxyType({})
) -> Config:
    """The options of a client from what the user gave, by dotted names ('group.id') or Python's (group_id).

    ConfigError for a name that does not exist (with the nearest that does), a value of the wrong type or out of range, one
    option given twice, a required one missing, options that contradict each other, and what this version does not have yet.
    """
    options = BY_CLIENT[kind]
    values: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    for written, value in [*given.items(), *keywords.items()]:
        name = _dotted(kind, written)
        if name in spelled:
            raise ConfigError(
                f"{name} is given twice, as {spelled[name]!r} and as {written!r}; keep one of them"
            )
        spelled[name] = written
        values[name] = parse(options[name], value, kind)
    for name, option in options.items():
        if name not in values:
            values[name] = option.default_for(kind)
            if values[name] is REQUIRED:
                raise ConfigError(
                    f"{name} is required: {option.doc.split(':')[0].lower()}, e.g. 'localhost:9092'"
                )
    config = Config(kind, values, frozenset(spelled))
    return _crosschecked(kind, config)


def _dotted(kind: ClientKind, written: Any) -> str:
    if not isinstance(written, str):
        raise ConfigError(f"the name of an option is a str; got {written!r} of type {type(written).__name__}")
    options = BY_CLIENT[kind]
    if written in options:
        return written
    name = written.replace("_", ".") if "." not in written else written
    if name in options:
        return name
    raise ConfigError(_unknown(kind, written, written.replace("_", ".")))


def _unknown(kind: ClientKind, written: str, name: str) -> str:
    message = f"no option {written!r}"
    if name in BY_CLIENT[kind]:
        return f"{message}; write {name!r} or {name.replace('.', '_')!r}"
    if name in _ELSEWHERE:
        return f"{message}; {_ELSEWHERE[name]}"
    others = [other for other, options in BY_CLIENT.items() if other != kind and name in options]
    if others:
        return f"{message} of a {kind}: it belongs to {' and '.join(f'the {other}' for other in others)}"
    near = difflib.get_close_matches(name.lower(), list(BY_CLIENT[kind]), n=1, cutoff=0.6)
    if near:
        suggested = near[0] if "." in written or "_" not in written else near[0].replace(".", "_")
        return f"{message}; did you mean {suggested!r}?"
    return f"{message}; docs/configuration.md lists all options of a {kind}"


def _crosschecked(kind: ClientKind, config: Config) -> Config:
    """What Kafka's clients check or settle between options, once each has its value."""
    values = dict(config)
    for low, high in (
        ("reconnect.backoff.ms", "reconnect.backoff.max.ms"),
        ("retry.backoff.ms", "retry.backoff.max.ms"),
    ):
        if values[low] > values[high]:
            # Java lets the greater one stand where the maximum was not given, and takes a smaller maximum as the fixed delay.
            if high in config.given:
                values[low] = values[high]
            else:
                values[high] = values[low]
    if kind == "consumer":
        _check_consumer(config, values)
    if kind == "admin" and config["default.api.timeout.ms"] < config["request.timeout.ms"]:
        # Source: KafkaAdminClient.configureDefaultApiTimeoutMs
        if "default.api.timeout.ms" in config.given:
            raise ConfigError(
                f"default.api.timeout.ms ({config['default.api.timeout.ms']}) is less than request.timeout.ms "
                f"({config['request.timeout.ms']}): raise it, or lower the other"
            )
        values["default.api.timeout.ms"] = values["request.timeout.ms"]
    return Config(kind, values, config.given)


_CLASSIC_ONLY = ("partition.assignment.strategy", "session.timeout.ms", "heartbeat.interval.ms")
_WHO_DECIDES = {"consumer": "the broker's configuration", "classic": "partition.assignment.strategy"}


def _check_protocol(config: Config) -> None:
    """Options of the one group protocol are refused with the other, as Java's consumer does: they would be without effect."""
    protocol = config["group.protocol"]
    other = {"consumer": _CLASSIC_ONLY, "classic": ("group.remote.assignor",)}.get(protocol, ())
    options = BY_CLIENT["consumer"]
    if misplaced := [name for name in other if config[name] != options[name].default_for("consumer")]:
        raise ConfigError(
            f"{', '.join(misplaced)}: not with group.protocol={protocol}, where {_WHO_DECIDES[protocol]} decides; leave it out"
        )


def _check_consumer(config: Config, values: dict[str, Any]) -> None:
    if config["group.id"] is None:
        if config["enable.auto.commit"] and "enable.auto.commit" in config.given:
            raise ConfigError(
                "enable.auto.commit=True needs group.id: offsets are stored under a group's name"
            )
        values["enable.auto.commit"] = False  # as Java's ConsumerConfig.maybeOverrideEnableAutoCommit
        if config["group.instance.id"] is not None:
            raise ConfigError(
                f"group.instance.id={config['group.instance.id']!r} needs group.id: it names a member of a group"
            )
    _check_protocol(config)
    heartbeat_ms, session_ms = config["heartbeat.interval.ms"], config["session.timeout.ms"]
    if heartbeat_ms >= session_ms:
        raise ConfigError(
            f"heartbeat.interval.ms ({heartbeat_ms}) is not less than session.timeout.ms ({session_ms}): the member would be "
            f"taken out between two heartbeats; a third of the session timeout, {max(1, session_ms // 3)}, is usual"
        )
    wait_ms, request_ms = config["fetch.max.wait.ms"], config["request.timeout.ms"]
    if wait_ms >= request_ms:
        raise ConfigError(
            f"fetch.max.wait.ms ({wait_ms}) is not less than request.timeout.ms ({request_ms}): every fetch without records "
            "would time out; lower the first, or raise the second"
        )
