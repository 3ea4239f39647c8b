"""What an option is: its name, type, default, range and meaning, as one plain value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, Literal

ClientKind = Literal["consumer", "producer", "admin"]
Importance = Literal["high", "medium", "low"]

CONSUMER: Final[tuple[ClientKind, ...]] = ("consumer",)
PRODUCER: Final[tuple[ClientKind, ...]] = ("producer",)
ADMIN: Final[tuple[ClientKind, ...]] = ("admin",)
ALL: Final[tuple[ClientKind, ...]] = ("consumer", "producer", "admin")

INT_MAX: Final = 2**31 - 1
LONG_MAX: Final = 2**63 - 1


class Required(Enum):
    """The default of an option that has none: it must be given."""

    REQUIRED = "required"


REQUIRED: Final = Required.REQUIRED


class Kind(Enum):
    """The type of an option's value, by Kafka's name of it. Source: org.apache.kafka.common.config.ConfigDef.Type."""

    BOOLEAN = "boolean"
    INT = "int"
    LONG = "long"
    DOUBLE = "double"
    STRING = "string"
    LIST = "list"
    PASSWORD = "password"
    CALLABLE = "callable"  # where Kafka names a Java class
    OBJECTS = "list of objects"  # where Kafka names several


class Status(Enum):
    """What giving the option does in this version."""

    WORKS = "works"
    NO_EFFECT = "accepted, without effect"
    NOT_YET = "not yet: only the default is accepted"


@dataclass(frozen=True, slots=True)
class Option:
    """One option, as Kafka names and defines it.

    `minimum` and `maximum` are inclusive; `choices` are the values that a string, or each entry of a list, may have, and
    `not_yet` those among Kafka's that this version does not have. `per_client` holds defaults that differ from `default`.
    """

    name: str
    kind: Kind
    default: Any
    importance: Importance
    doc: str
    clients: tuple[ClientKind, ...]
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    not_yet: tuple[str, ...] = ()
    status: Status = Status.WORKS
    instead: str = ""  # what to do where the status is not WORKS
    own: bool = False  # penstock's, not Kafka's
    per_client: Mapping[ClientKind, Any] = field(default_factory=lambda: MappingProxyType({}))

    def default_for(self, client: ClientKind) -> Any:
        """The value where none is given; REQUIRED where one must be."""
        return self.per_client.get(client, self.default)

    @property
    def is_milliseconds(self) -> bool:
        return self.name.endswith(".ms")
