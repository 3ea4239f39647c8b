"""Is a broker ready? Two requests of the Kafka protocol by hand, so that this needs no client library.

Source: https://kafka.apache.org/protocol#protocol_messages (ApiVersions version 0, Metadata version 1).
"""

from __future__ import annotations

import socket
import struct

API_VERSIONS = 18
METADATA = 3
CLIENT_ID = b"penstock-probe"


def live_brokers(host: str, port: int, timeout_s: float = 2.0) -> set[int]:
    """The node ids that a broker's metadata lists, which are those the controller has unfenced.

    Raises OSError when the broker does not answer, or not yet.
    """
    with socket.create_connection((host, port), timeout=timeout_s) as connection:
        versions = _ask(connection, API_VERSIONS, 0, b"")
        (error_code,) = struct.unpack_from(">h", versions, 4)
        if error_code != 0:
            raise OSError(f"ApiVersions answered with error code {error_code}")
        no_topics = struct.pack(">i", 0)
        return _broker_ids(_ask(connection, METADATA, 1, no_topics))


def _ask(connection: socket.socket, api_key: int, version: int, body: bytes) -> bytes:
    request = struct.pack(">hhih", api_key, version, api_key, len(CLIENT_ID)) + CLIENT_ID + body
    connection.sendall(struct.pack(">i", len(request)) + request)
    (size,) = struct.unpack(">i", _read(connection, 4))
    if not 4 <= size <= 16_777_216:
        raise OSError(f"the peer announces a response of {size} bytes: it is no Kafka broker")
    return _read(connection, size)


def _read(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise OSError("the broker closed the connection")
        data += part
    return bytes(data)


def _broker_ids(response: bytes) -> set[int]:
    (count,) = struct.unpack_from(">i", response, 4)
    position = 8
    ids = set()
    for _ in range(count):
        node_id, host_size = struct.unpack_from(">ih", response, position)
        position += 6 + host_size + 4
        (rack_size,) = struct.unpack_from(">h", response, position)
        position += 2 + max(rack_size, 0)
        ids.add(node_id)
    return ids
