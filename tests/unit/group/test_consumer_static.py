"""A static member of the consumer protocol takes its predecessor's place, subscription and all (KIP-848)."""

from __future__ import annotations

import pytest

from penstock.group.consumer import ConsumerMember
from penstock.group.consumer_messages import SendConsumerHeartbeat
from penstock.group.messages import CoordinatorFound, Subscribe


@pytest.mark.parametrize(("instance", "regex"), [("instance", ""), (None, None)])
def test_a_predecessors_pattern_does_not_outlast_it(instance: str | None, regex: str | None) -> None:
    """Null would leave the pattern as it was, and this member would be given topics that it does not want."""
    machine = ConsumerMember(
        group_id="group",
        group_instance_id=instance,
        rack_id=None,
        rebalance_timeout_ms=300_000,
        retry_backoff_ms=100,
        retry_backoff_max_ms=1_000,
        server_assignor=None,
        member_id="me",
    )
    machine.handle(Subscribe(("t",)), 0)
    (join,) = machine.handle(CoordinatorFound(), 1)
    assert isinstance(join, SendConsumerHeartbeat)
    assert join.subscribed_topic_names == ("t",)
    assert join.subscribed_topic_regex == regex
