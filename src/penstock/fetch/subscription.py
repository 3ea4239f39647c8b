"""What a consumer wants to read, what it was given, and how far each partition is on the way to a position."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from enum import Enum, auto

from ..errors import IllegalStateError
from ..types import TopicPartition


class Kind(Enum):
    """How partitions come to the consumer."""

    NONE = auto()
    TOPICS = auto()
    PATTERN = auto()
    USER_ASSIGNED = auto()


class Phase(Enum):
    """A partition's way to a position. Each is entered from the one before; seek() leads to POSITIONED from all, or to
    AWAITS_VALIDATION where it names a leader epoch."""

    NEEDS_COMMITTED = auto()
    """Assigned; the group's committed offset is not known yet."""
    NEEDS_RESET = auto()
    """Nothing is committed, or the user or the log asks for a reset: the leader must say an offset."""
    POSITIONED = auto()
    """Fetched from its position on."""
    AWAITS_VALIDATION = auto()
    """It has a position, and another leader than that of the record before it: the leader must say whether it still has that record
    (KIP-320). Not fetched meanwhile; what was fetched before is returned. Leads to POSITIONED, NEEDS_RESET or GIVEN_UP."""
    GIVEN_UP = auto()
    """poll() raises its error; only seek() or a reset by the user leads out."""


class SubscriptionState:
    """Belongs to the engine's thread.

    `topics` are those subscribed to (with a pattern: matching now). `_constructor_topics` give ints in assign() their meaning.
    """

    def __init__(self, constructor_topics: Sequence[str] = ()) -> None:
        self._constructor_topics = tuple(constructor_topics)
        self.kind = Kind.TOPICS if constructor_topics else Kind.NONE
        self.topics: frozenset[str] = frozenset(constructor_topics)
        self._phases: dict[TopicPartition, Phase] = {}
        self._strategies: dict[TopicPartition, str | None] = {}
        self._paused: set[TopicPartition] = set()
        self._consumed = False

    @property
    def subscribed(self) -> bool:
        """Whether the group assigns the partitions."""
        return self.kind in (Kind.TOPICS, Kind.PATTERN)

    # ------------------------------------------------------------ what is wanted

    def subscribe(self, topics: Iterable[str]) -> None:
        """Replace what is subscribed to. IllegalStateError while partitions are assigned by the user."""
        self._refuse_mixing("subscribe()")
        self.kind = Kind.TOPICS
        self.topics = frozenset(topics)

    def subscribe_pattern(self, pattern: str) -> None:
        """Likewise, by pattern; pattern_matched() tells which topics."""
        self._refuse_mixing(f"subscribe(pattern={pattern!r})")
        self.kind = Kind.PATTERN
        self.topics = frozenset()

    def pattern_matched(self, topics: Iterable[str]) -> None:
        """The topics that match the pattern now."""
        self.topics = frozenset(topics)

    def _refuse_mixing(self, call: str) -> None:
        if self.kind is Kind.USER_ASSIGNED:
            raise IllegalStateError(
                f"{call} after assign(): call unsubscribe() first; one consumer uses one of the two"
            )

    def assign_from_user(
        self, partitions: Sequence[TopicPartition | tuple[str, int] | int]
    ) -> list[TopicPartition]:
        """Take exactly these; returns them without duplicates. Ints are partitions of the constructor's one topic.

        A subscription is replaced as long as nothing was consumed through it: constructor topics are often only there to give
        ints their meaning. Later it would abandon the group's partitions without a word, so it is an error.
        """
        wanted = list(dict.fromkeys(self._named(p) for p in partitions))
        if self.subscribed and self._consumed:
            raise IllegalStateError(
                f"assign() after records of the subscription ({', '.join(sorted(self.topics))}) were consumed: "
                "call unsubscribe() first, or use another consumer"
            )
        self.kind = Kind.USER_ASSIGNED
        self.topics = frozenset()
        self._keep(wanted)
        return wanted

    def _named(self, partition: TopicPartition | tuple[str, int] | int) -> TopicPartition:
        if isinstance(partition, int) and not isinstance(partition, bool):
            if len(self._constructor_topics) != 1:
                named = ", ".join(self._constructor_topics) or "none"
                raise IllegalStateError(
                    f"assign([{partition}]) needs a consumer constructed with exactly one topic (it named {named}): "
                    f"pass TopicPartition(topic, {partition})"
                )
            partition = TopicPartition(self._constructor_topics[0], partition)
        found = TopicPartition(*partition) if isinstance(partition, tuple) else TopicPartition("", -1)
        if (
            not found.topic
            or not isinstance(found.topic, str)
            or not isinstance(found.partition, int)
            or found.partition < 0
        ):
            raise ValueError(f"not a partition: {partition!r}; pass TopicPartition(topic, number from 0 on)")
        return found

    def assign_from_group(self, partitions: Sequence[TopicPartition]) -> None:
        """Take what the group gave; those kept keep their phase."""
        self._keep(partitions)

    def _keep(self, partitions: Sequence[TopicPartition]) -> None:
        wanted = set(partitions)
        self.drop([tp for tp in self._phases if tp not in wanted])
        for tp in partitions:
            self._phases.setdefault(tp, Phase.NEEDS_COMMITTED)

    def drop(self, partitions: Iterable[TopicPartition]) -> None:
        """Forget these partitions and all that concerns them."""
        for tp in list(partitions):
            self._phases.pop(tp, None)
            self._strategies.pop(tp, None)
            self._paused.discard(tp)

    def unsubscribe(self) -> None:
        """Want nothing."""
        self.kind = Kind.NONE
        self.topics = frozenset()
        self._consumed = False
        self.drop(list(self._phases))

    def note_consumed(self) -> None:
        """poll() has returned records of the subscription."""
        self._consumed = True

    # ------------------------------------------------------------ positions

    def without_position(self) -> list[TopicPartition]:
        """Partitions that something must be asked for."""
        waiting = (Phase.NEEDS_COMMITTED, Phase.NEEDS_RESET)
        return [tp for tp, phase in self._phases.items() if phase in waiting]

    def needs_committed(self, partition: TopicPartition) -> bool:
        return self._phases.get(partition) is Phase.NEEDS_COMMITTED

    def needs_reset(self, partition: TopicPartition) -> bool:
        return self._phases.get(partition) is Phase.NEEDS_RESET

    def reset_strategy(self, partition: TopicPartition) -> str | None:
        """The strategy that the user asked for, None for the policy of the configuration."""
        return self._strategies.get(partition)

    def reset(self, partition: TopicPartition, strategy: str | None) -> None:
        """Ask the leader for a position: by `strategy`, or (None) by auto.offset.reset."""
        if partition in self._phases:
            self._phases[partition] = Phase.NEEDS_RESET
            self._strategies[partition] = strategy

    def position_set(self, partition: TopicPartition) -> None:
        """A position was found, or given by seek()."""
        if partition in self._phases:
            self._phases[partition] = Phase.POSITIONED
            self._strategies.pop(partition, None)

    def await_validation(self, partition: TopicPartition) -> None:
        """Its position may not be in the log any more."""
        if partition in self._phases:
            self._phases[partition] = Phase.AWAITS_VALIDATION
            self._strategies.pop(partition, None)

    def awaits_validation(self, partition: TopicPartition) -> bool:
        return self._phases.get(partition) is Phase.AWAITS_VALIDATION

    def has_valid_position(self, partition: TopicPartition) -> bool:
        return self._phases.get(partition) is Phase.POSITIONED

    def give_up(self, partition: TopicPartition) -> None:
        """No position can be had; poll() says why."""
        if partition in self._phases:
            self._phases[partition] = Phase.GIVEN_UP

    # ------------------------------------------------------------ pausing

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        self._paused.update(partitions)

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        self._paused.difference_update(partitions)

    def paused(self) -> frozenset[TopicPartition]:
        return frozenset(self._paused)
