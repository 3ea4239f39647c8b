"""The soak of `make soak`, for some seconds: records that fail are accounted for, and memory does not grow with them."""

from __future__ import annotations

from tools.soak_processing import run

from penstock import DevBroker


def test_one_in_a_hundred_fails_and_memory_is_flat() -> None:
    with DevBroker(group_initial_rebalance_delay_ms=0) as broker:
        assert run(broker.bootstrap_servers, seconds=10, rate=3_000) == 0
