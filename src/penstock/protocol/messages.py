"""From fields to bytes and back, for any version of a message."""

from __future__ import annotations

import dataclasses
import datetime
import struct
import types
import typing
import uuid
from collections.abc import Callable, Mapping
from functools import cache
from io import BytesIO
from typing import Any

from kio.index import load_entity_schema
from kio.schema.errors import ErrorCode
from kio.schema.index import api_key_map
from kio.serial import entity_reader, entity_writer
from kio.static.constants import EntityType

from ..errors import ProtocolError
from .apis import MAY_BE_ABSENT, Api, Features

_UNSUPPORTED_VERSION = 35
_CORRELATION_ID_BYTES = 4


def make(api: Api, version: int, **fields: Any) -> Any:
    """A request of this version from plain values: ints for milliseconds, 16 bytes for ids, dicts for nested entries.

    Fields that a version does not have are left out, so that one call serves all versions; fields that it has and the
    call does not name take the protocol's default. A name that no version has is a mistake and raises TypeError.
    """
    return _build(_request_type(api, version), fields, api)


def encode_request(api: Api, version: int, correlation_id: int, client_id: str | None, request: Any) -> bytes:
    """Header and body, without the length prefix (the native connection adds it)."""
    header_type = request.__header_schema__
    fields: dict[str, Any] = {
        "request_api_key": int(api),
        "request_api_version": version,
        "correlation_id": correlation_id,
        "client_id": client_id,
    }
    known = {field.name for field in dataclasses.fields(header_type)}
    buffer = BytesIO()
    entity_writer(header_type)(buffer, header_type(**{k: v for k, v in fields.items() if k in known}))
    entity_writer(type(request))(buffer, request)
    return buffer.getvalue()


def encode_answer(api: Api, version: int, **fields: Any) -> bytes:
    """What a broker answers, from behind the correlation id on; fields as for make(). For those who compare answers as bytes."""
    response = _build(_response_type(api, version), fields, api)
    header_type = response.__header_schema__
    buffer = BytesIO()
    entity_writer(header_type)(buffer, header_type(correlation_id=0))
    entity_writer(type(response))(buffer, response)
    return buffer.getvalue()[_CORRELATION_ID_BYTES:]


def decode_response(api: Api, version: int, frame: bytes) -> Any:
    """A response from its frame, which starts at the correlation id. ProtocolError where it makes no sense."""
    response_type = _response_type(api, version)
    try:
        _, header_size = entity_reader(response_type.__header_schema__)(frame, 0)
        response, size = entity_reader(response_type)(frame, header_size)
    except Exception as error:
        raise ProtocolError(
            f"a {api.name} response (version {version}, {len(frame)} bytes) cannot be read: {error}"
        ) from error
    if header_size + size > len(frame):
        raise ProtocolError(f"a {api.name} response (version {version}) ends after {len(frame)} bytes")
    return response


def prepare(api: Api, version: int) -> None:
    """Build what encodes and decodes this version now, some milliseconds, rather than when it is needed first."""
    request, response = _request_type(api, version), _response_type(api, version)
    entity_writer(request)
    entity_reader(response)
    for cls in _with_nested(request):
        _plan(cls)
        _required(cls)


def _with_nested(cls: Any) -> list[Any]:
    hints = typing.get_type_hints(cls)
    found = [cls]
    for field in dataclasses.fields(cls):
        nested = _nested_type(hints[field.name])
        if nested is not None:
            found += _with_nested(nested)
    return found


def read_api_versions(version: int, frame: bytes) -> tuple[int, list[tuple[int, int, int]], Features]:
    """(error code, [(api key, lowest, highest)], what the cluster has switched on) of an ApiVersions response.

    A broker that does not know the version asked for answers with UNSUPPORTED_VERSION in version 0, whatever was asked
    (KIP-511); its list still tells which version to ask for.
    """
    if len(frame) < 6:
        raise ProtocolError(f"an API_VERSIONS response of {len(frame)} bytes is too short")
    (error_code,) = struct.unpack_from(">h", frame, 4)
    response = decode_response(Api.API_VERSIONS, 0 if error_code == _UNSUPPORTED_VERSION else version, frame)
    ranges = [(int(k.api_key), int(k.min_version), int(k.max_version)) for k in response.api_keys]
    epoch = int(getattr(response, "finalized_features_epoch", -1))
    if epoch < 0:  # then the levels say nothing
        return int(error_code), ranges, Features()
    levels = {str(feature.name): int(feature.max_version_level) for feature in response.finalized_features}
    return int(error_code), ranges, Features(epoch, levels)


@cache
def _request_type(api: Api, version: int) -> Any:
    return load_entity_schema(api_key_map[int(api)], version, EntityType.request)


@cache
def _response_type(api: Api, version: int) -> Any:
    return load_entity_schema(api_key_map[int(api)], version, EntityType.response)


def _build(cls: Any, given: Mapping[str, Any], api: Api) -> Any:
    plan = _plan(cls)
    values: dict[str, Any] = {}
    for name, value in given.items():
        convert = plan.get(name)
        if convert is not None:
            values[name] = convert(value, api)
        elif name not in MAY_BE_ABSENT.get(api, ()):
            raise TypeError(f"no version of {api.name} has a field {name!r}")
    for name, empty in _required(cls).items():
        values.setdefault(name, empty)
    return cls(**values)


@cache
def _required(cls: Any) -> dict[str, Any]:
    """The protocol's implicit defaults for fields without one: zero, empty, null."""
    hints = typing.get_type_hints(cls)
    empties: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if field.default is not dataclasses.MISSING:
            continue
        kafka_type = field.metadata.get("kafka_type", "")
        if _is_optional(hints[field.name]):
            empties[field.name] = None
        elif _nested_type(hints[field.name]) is not None or typing.get_origin(hints[field.name]) is tuple:
            empties[field.name] = ()
        elif kafka_type.startswith("timedelta"):
            empties[field.name] = datetime.timedelta(0)
        elif kafka_type == "error_code":
            empties[field.name] = ErrorCode.none
        elif kafka_type.startswith(("int", "uint")):
            empties[field.name] = 0
        else:
            known = {"string": "", "bytes": b"", "records": b"", "bool": False}
            if kafka_type in known:
                empties[field.name] = known[kafka_type]
    return empties


@cache
def _plan(cls: Any) -> dict[str, Callable[[Any, Api], Any]]:
    """For each field, how a plain value becomes the dataclass's."""
    hints = typing.get_type_hints(cls)
    plan: dict[str, Callable[[Any, Api], Any]] = {}
    for field in dataclasses.fields(cls):
        nested = _nested_type(hints[field.name])
        kafka_type = field.metadata.get("kafka_type", "")
        if nested is not None:
            plan[field.name] = _nested_converter(nested)
        elif kafka_type.startswith("timedelta"):
            plan[field.name] = lambda value, api: datetime.timedelta(milliseconds=value)
        elif kafka_type == "uuid" and not _is_tuple(hints[field.name]):
            plan[field.name] = lambda value, api: (
                uuid.UUID(bytes=value) if isinstance(value, bytes) else value
            )
        elif _is_tuple(hints[field.name]):
            plan[field.name] = lambda value, api: None if value is None else tuple(value)
        else:
            plan[field.name] = lambda value, api: value
    return plan


def _nested_converter(nested: Any) -> Callable[[Any, Api], Any]:
    def convert(value: Any, api: Api) -> Any:
        if value is None:
            return None
        if isinstance(value, Mapping):
            return _build(nested, value, api)
        return tuple(_build(nested, item, api) for item in value)

    return convert


def _options(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _is_optional(hint: Any) -> bool:
    return type(None) in _options(hint)


def _is_tuple(hint: Any) -> bool:
    return any(typing.get_origin(option) is tuple for option in _options(hint))


def _nested_type(hint: Any) -> Any:
    for option in _options(hint):
        inner = typing.get_args(option)[0] if typing.get_origin(option) is tuple else option
        if dataclasses.is_dataclass(inner):
            return inner
    return None
