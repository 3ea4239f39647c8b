"""GetTelemetrySubscriptions (key 71): what a client shall tell of itself (KIP-714)."""

from __future__ import annotations

import asyncio
from typing import Any

from . import Call, Fields


def handle(call: Call) -> Fields:
    telemetry = call.server.telemetry
    now_ms = asyncio.get_running_loop().time() * 1000
    code, instance_id, subscription_id = telemetry.ask(call.body.client_instance_id, now_ms)
    if code:
        return refuse(call.body, code)
    wanted = telemetry.wanted
    return {
        "client_instance_id": instance_id,
        "subscription_id": subscription_id,
        "accepted_compression_types": wanted.compression_types,
        "push_interval": wanted.interval_ms,
        "telemetry_max_bytes": wanted.max_bytes,
        "delta_temporality": wanted.delta,
        "requested_metrics": wanted.metrics,
    }


def refuse(body: Any, code: int) -> Fields:
    return {"error_code": code}
