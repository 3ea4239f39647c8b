"""What a member of the classic protocol does with its assignors: offer them, and divide the partitions when it leads. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import ProtocolError
from ..types import TopicPartition
from . import messages as g
from .assignors import Assignor, RebalanceProtocol, common_protocol
from .protocol import MemberSubscription, decode_subscription, encode_assignment, encode_subscription


class Strategy:
    """`cooperative`: partitions are kept through a join, since every assignor can do with that (KIP-429).

    Between lead() and divide() it knows the members of the generation that this one leads.
    """

    def __init__(self, assignors: Sequence[Assignor], rack_id: str | None) -> None:
        self.cooperative = common_protocol(assignors) is RebalanceProtocol.COOPERATIVE
        self._assignors = tuple(assignors)
        self._rack_id = rack_id
        self._members: Mapping[str, MemberSubscription] = {}
        self._skip_assignment = False

    def offers(
        self, topics: tuple[str, ...], owned: tuple[TopicPartition, ...], generation_id: int
    ) -> tuple[tuple[str, bytes], ...]:
        """The protocols of a JoinGroup. What is owned while joining is said only cooperatively; the generation tells sticky assignors how
        old a claim is (KIP-792)."""
        return tuple(
            (
                assignor.name,
                encode_subscription(
                    MemberSubscription(
                        topics,
                        owned_partitions=owned if self.cooperative else (),
                        user_data=assignor.user_data(topics),
                        generation_id=generation_id,
                        rack_id=self._rack_id,
                    )
                ),
            )
            for assignor in self._assignors
        )

    def lead(self, event: g.JoinAnswered) -> tuple[str, ...]:
        """This member leads: all topics that any member wants. ProtocolError where one's subscription cannot be read.

        With skip_assignment (a static leader is back, KIP-814) the coordinator keeps the assignment that it has. The counts are
        still asked for, since it is this member that has to see them change.
        """
        self._skip_assignment = event.skip_assignment
        self._members = {
            m.member_id: decode_subscription(m.metadata, m.group_instance_id) for m in event.members
        }
        return tuple(sorted({topic for member in self._members.values() for topic in member.topics}))

    def divide(self, protocol_name: str, counts: g.PartitionCounts) -> tuple[tuple[str, bytes], ...]:
        """What SyncGroup tells of each member's share, by the assignor that the coordinator chose. ProtocolError says why there is none."""
        members, self._members = self._members, {}
        assignor = self._named(protocol_name)
        if assignor is None:
            raise ProtocolError(f"it chose the assignor {protocol_name!r}, which this member did not offer")
        if self._skip_assignment:
            return ()
        try:
            shares = assignor.assign(members, counts.counts, counts.racks)
        except Exception as error:  # the user may have written it; all members wait for the outcome
            told = f"the assignor {assignor.name!r} raised {error!r}; mend it, or use another"
            raise ProtocolError(told) from error
        return tuple((member, encode_assignment(partitions)) for member, partitions in shares.items())

    def took(self, protocol_name: str, partitions: tuple[TopicPartition, ...], generation_id: int) -> None:
        """This member was given these: sticky assignors remember."""
        if (assignor := self._named(protocol_name)) is not None:
            assignor.on_assignment(partitions, generation_id)

    def forget(self) -> None:
        """The generation that this member led is over."""
        self._members = {}

    def _named(self, name: str) -> Assignor | None:
        return next((assignor for assignor in self._assignors if assignor.name == name), None)
