"""ApiVersions (key 18): what this broker speaks (KIP-35, KIP-511)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from . import APIS, Api, Call, Fields


def handle(call: Call) -> Fields:
    return answer(0, call.served)


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
