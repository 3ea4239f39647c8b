"""Requests and responses of Kafka's protocol: versions, headers, bodies, error codes. No I/O, no clock.

The messages themselves are kio's dataclasses, generated from Kafka's own schemas.
Source: https://kafka.apache.org/protocol
"""

from .apis import Api, BrokerVersions, Features
from .error_codes import error_for, error_name, is_retriable
from .messages import decode_response, encode_answer, encode_request, make, prepare, read_api_versions

__all__ = [
    "Api",
    "BrokerVersions",
    "Features",
    "decode_response",
    "encode_answer",
    "encode_request",
    "error_for",
    "error_name",
    "is_retriable",
    "make",
    "prepare",
    "read_api_versions",
]
