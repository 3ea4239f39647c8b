"""PushTelemetry (key 72): what a client tells of itself (KIP-714)."""

from __future__ import annotations

import asyncio
from typing import Any

from penstock.devbroker.telemetry import TelemetryCode, TelemetryPush

from . import Call, Fields


def handle(call: Call) -> Fields:
    body = call.body
    if body.client_instance_id is None:
        return refuse(body, TelemetryCode.INVALID_REQUEST)
    push = TelemetryPush(
        body.client_instance_id,
        call.request.client_id or "",
        body.terminating,
        body.compression_type,
        bytes(body.metrics),
    )
    now_ms = asyncio.get_running_loop().time() * 1000
    return {"error_code": call.server.telemetry.push(push, body.subscription_id, now_ms)}


def refuse(body: Any, code: int) -> Fields:
    return {"error_code": code}
