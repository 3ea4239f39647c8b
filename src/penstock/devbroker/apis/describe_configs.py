"""DescribeConfigs (key 32, KIP-133, KIP-226, KIP-569)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.devbroker.cluster import NODE_ID
from penstock.devbroker.codes import Code, RequestRefused
from penstock.devbroker.options import BROKER_SETTINGS, TOPIC_SETTINGS, Setting

from . import Call, Fields

TOPIC, BROKER = 2, 4
DYNAMIC_TOPIC_CONFIG, STATIC_BROKER_CONFIG, DEFAULT_CONFIG = 1, 4, 5


def handle(call: Call) -> Fields:
    return {"results": [describe(call, resource) for resource in call.body.resources]}


def describe(call: Call, resource: Any) -> Fields:
    named = {"resource_type": resource.resource_type, "resource_name": resource.resource_name}
    try:
        if resource.resource_type == TOPIC:
            given: Mapping[str, str] = call.cluster.topic(resource.resource_name).config
            rows = configs(call, resource, TOPIC_SETTINGS, given, DYNAMIC_TOPIC_CONFIG)
        elif resource.resource_type == BROKER and resource.resource_name in ("", str(NODE_ID)):
            rows = configs(call, resource, BROKER_SETTINGS, call.cluster.options.values, STATIC_BROKER_CONFIG)
        else:
            raise RequestRefused(Code.INVALID_REQUEST, f"nothing known of resource {named}")
    except RequestRefused as error:
        return {**named, "error_code": error.code, "error_message": error.message}
    return {**named, "error_code": Code.NONE, "error_message": None, "configs": rows}


def configs(
    call: Call, resource: Any, settings: Mapping[str, Setting], given: Mapping[str, str], source: int
) -> list[Fields]:
    keys = resource.configuration_keys
    documented = getattr(call.body, "include_documentation", False)
    rows: list[Fields] = []
    for name, setting in settings.items():
        if keys is not None and name not in keys:
            continue
        value = given.get(name, setting.default)
        rows.append(
            {
                "name": name,
                "value": value,
                "read_only": source == STATIC_BROKER_CONFIG,
                "config_source": DEFAULT_CONFIG if value == setting.default else source,
                "is_sensitive": False,
                "synonyms": (),
                "config_type": setting.kind,
                "documentation": setting.meaning if documented else None,
            }
        )
    return rows


def refuse(body: Any, code: int) -> Fields:
    return {
        "results": [
            {
                "resource_type": each.resource_type,
                "resource_name": each.resource_name,
                "error_code": code,
                "error_message": None,
            }
            for each in body.resources
        ]
    }
