"""Single requests, written field by field, to any broker: for what no client would send."""

from __future__ import annotations

import socket
import struct
from types import TracebackType
from typing import Any

from kio.index import load_request_schema, load_response_schema
from kio.serial import entity_reader, entity_writer

from penstock.devbroker.wire import build

WAIT_S = 30.0


class _Bytes:
    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


class RawClient:
    """One connection; one request after another. Fields are given by kio's names, those left out are the protocol's defaults."""

    def __init__(self, bootstrap_servers: str, client_id: str = "raw") -> None:
        host, port = bootstrap_servers.split(",", maxsplit=1)[0].rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)), timeout=WAIT_S)
        self._client_id = client_id
        self._correlation_id = 0

    def ask(self, api_key: int, version: int, **fields: Any) -> Any:
        """The answer as kio's dataclass. ConnectionError if the broker hangs up instead."""
        schema, answers = load_request_schema(api_key, version), load_response_schema(api_key, version)
        self._correlation_id += 1
        frame = _Bytes()
        head = {
            "request_api_key": api_key,
            "request_api_version": version,
            "correlation_id": self._correlation_id,
            "client_id": self._client_id,
        }
        entity_writer(schema.__header_schema__)(frame, build(schema.__header_schema__, head))
        entity_writer(schema)(frame, build(schema, fields))
        self._socket.sendall(struct.pack(">i", len(frame.data)) + frame.data)
        data = self._exactly(*struct.unpack(">i", self._exactly(4)))
        header, size = entity_reader(answers.__header_schema__)(data, 0)
        assert header.correlation_id == self._correlation_id
        return entity_reader(answers)(data, size)[0]

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self._socket.recv(count - len(data))
            if not more:
                raise ConnectionError("the broker hung up")
            data += more
        return data

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
