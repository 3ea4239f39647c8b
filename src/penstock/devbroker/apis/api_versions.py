"""ApiVersions (key 18): what this broker speaks (KIP-35, KIP-511), and the features it has switched on (KIP-584)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from . import APIS, Api, Call, Fields


def handle(call: Call) -> Fields:
    level = call.cluster.options.number("transaction.version")
    feature = {"name": "transaction.version", "max_version_level": level, "min_version_level": level}
    supported = {"name": "transaction.version", "min_version": 0, "max_version": 2}
    return {
        **answer(0, call.served),
        "supported_features": [supported]
        if call.version > 3
        else [],  # a lowest level of 0 came with version 4
        "finalized_features_epoch": 1,
        "finalized_features": [feature],
    }


def answer(code: int, apis: Iterable[Api] = ()) -> Fields:
    """Also for a version that is not known: then in version 0, with UNSUPPORTED_VERSION and the versions to choose from.

    Produce is announced from 0 on though it is served from 3, as Kafka 4 does: older librdkafka takes the absence of the
    oldest versions for a broker without compression (KAFKA-18659).
    """
    return {
        "error_code": code,
        "api_keys": [
            {
                "api_key": api.key,
                "min_version": 0 if api.name == "produce" else api.low,
                "max_version": api.high,
            }
            for api in apis or APIS.values()
        ],
    }


def refuse(body: Any, code: int) -> Fields:
    return answer(code)
