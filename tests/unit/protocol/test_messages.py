"""Building and reading messages in every version that penstock speaks."""

from __future__ import annotations

import struct
from io import BytesIO

import pytest
from kio.index import load_entity_schema
from kio.schema.index import api_key_map
from kio.serial import entity_reader, entity_writer
from kio.static.constants import EntityType

from penstock.errors import AuthorizationError, GroupError, ProtocolError, UnsupportedVersionError
from penstock.protocol import (
    Api,
    BrokerVersions,
    Features,
    decode_response,
    encode_answer,
    encode_request,
    error_for,
    error_name,
    is_retriable,
    make,
    prepare,
    read_api_versions,
)
from penstock.protocol.apis import SPOKEN

FIELDS = {
    Api.METADATA: {"topics": [{"name": "orders"}], "allow_auto_topic_creation": True},
    Api.LIST_OFFSETS: {
        "replica_id": -1,
        "isolation_level": 1,
        "topics": [
            {
                "name": "orders",
                "partitions": [{"partition_index": 3, "timestamp": -2, "current_leader_epoch": 7}],
            }
        ],
    },
    Api.OFFSET_FETCH: {
        "group_id": "g",
        "topics": [{"name": "orders", "partition_indexes": [0, 1]}],
        "groups": [{"group_id": "g", "topics": [{"name": "orders", "partition_indexes": [0, 1]}]}],
        "require_stable": True,
    },
    Api.JOIN_GROUP: {
        "group_id": "g",
        "session_timeout": 45_000,
        "rebalance_timeout": 300_000,
        "member_id": "m",
        "protocol_type": "consumer",
        "protocols": [{"name": "range", "metadata": b"\x00\x01"}],
        "reason": "because",
    },
    Api.FIND_COORDINATOR: {"key": "g", "key_type": 0, "coordinator_keys": ["g"]},
    Api.HEARTBEAT: {"group_id": "g", "generation_id": 5, "member_id": "m", "group_instance_id": None},
    Api.CONSUMER_GROUP_HEARTBEAT: {
        "group_id": "g",
        "member_id": "m",
        "member_epoch": 0,
        "instance_id": "i",
        "rack_id": "r",
        "rebalance_timeout": 300_000,
        "subscribed_topic_names": ["orders"],
        "subscribed_topic_regex": "or.*",
        "server_assignor": "uniform",
        "topic_partitions": [{"topic_id": bytes(range(16)), "partitions": [0, 1]}],
    },
    Api.CONSUMER_GROUP_DESCRIBE: {"group_ids": ["g"], "include_authorized_operations": True},
}


@pytest.mark.parametrize(
    ("api", "version"), [(api, v) for api in FIELDS for v in range(SPOKEN[api][0], SPOKEN[api][1] + 1)]
)
def test_every_spoken_version_can_be_built_and_reads_back_as_it_was(api: Api, version: int) -> None:
    request = make(api, version, **FIELDS[api])
    frame = encode_request(api, version, 77, "me", request)
    assert struct.unpack_from(">hhi", frame) == (api, version, 77)
    header, size = entity_reader(request.__header_schema__)(frame, 0)
    again, rest = entity_reader(type(request))(frame, size)
    assert header.client_id == "me"
    assert again == request
    assert size + rest == len(frame)


@pytest.mark.parametrize("api", list(SPOKEN))
def test_every_version_named_as_spoken_exists(api: Api) -> None:
    for version in range(SPOKEN[api][0], SPOKEN[api][1] + 1):
        assert load_entity_schema(api_key_map[int(api)], version, EntityType.request)


@pytest.mark.parametrize("api", list(FIELDS))
def test_what_was_prepared_is_built_as_ever(api: Api) -> None:
    version = SPOKEN[api][1]
    prepare(api, version)
    assert make(api, version, **FIELDS[api]) == make(api, version, **FIELDS[api])


def test_a_field_of_another_version_is_left_out_and_a_misspelt_one_is_a_mistake() -> None:
    assert not hasattr(
        make(Api.METADATA, 1, topics=[{"name": "t"}], allow_auto_topic_creation=True), "allow_auto"
    )
    with pytest.raises(TypeError, match="allow_auto_topic_craetion"):
        make(Api.METADATA, 12, topics=[], allow_auto_topic_craetion=True)


@pytest.mark.parametrize("cut", range(4, 20))
def test_a_response_that_ends_early_is_a_protocol_error(cut: int) -> None:
    response_type = load_entity_schema("metadata", 12, EntityType.response)
    frame = _frame(response_type, throttle_ms=0)
    with pytest.raises(ProtocolError, match="METADATA"):
        decode_response(Api.METADATA, 12, frame[: len(frame) - cut])


def _frame(response_type: type, throttle_ms: int) -> bytes:
    import datetime

    response = response_type(  # type: ignore[call-arg]
        throttle_time=datetime.timedelta(milliseconds=throttle_ms),
        brokers=(),
        cluster_id="abcdefghijkl",
        topics=(),
    )
    buffer = BytesIO()
    entity_writer(response_type.__header_schema__)(buffer, response_type.__header_schema__(correlation_id=1))  # type: ignore[attr-defined]
    entity_writer(response_type)(buffer, response)
    return buffer.getvalue()


def test_a_broker_that_knows_only_old_api_versions_is_understood() -> None:
    """KIP-511: whatever was asked, the refusal comes in version 0 and lists what the broker speaks."""
    body = struct.pack(">hi", 35, 2) + struct.pack(">hhh", 18, 0, 2) + struct.pack(">hhh", 3, 0, 7)
    assert read_api_versions(3, struct.pack(">i", 1) + body) == (35, [(18, 0, 2), (3, 0, 7)], Features())


def test_features_count_where_the_broker_knows_their_epoch() -> None:
    """KIP-584: the levels are tagged fields of versions 3 and later, and mean nothing at epoch -1."""
    features = [{"name": "transaction.version", "max_version_level": 2, "min_version_level": 2}]
    for version, epoch, expected in ((4, 9, Features(9, {"transaction.version": 2})), (3, -1, Features())):
        body = encode_answer(
            Api.API_VERSIONS, version, finalized_features_epoch=epoch, finalized_features=features
        )
        assert read_api_versions(version, struct.pack(">i", 1) + body)[2] == expected


def test_the_highest_common_version_is_chosen_and_none_says_so() -> None:
    versions = BrokerVersions("b:9092", [(3, 0, 7), (1, 20, 25)])
    assert versions.pick(Api.METADATA) == 7
    assert versions.pick(Api.METADATA, at_most=4) == 4
    assert not versions.offers(Api.FETCH)
    assert versions.reaches(Api.METADATA, 7)
    assert not versions.reaches(Api.METADATA, 8)
    assert not versions.reaches(Api.FETCH, 4)
    with pytest.raises(
        UnsupportedVersionError, match=r"b:9092 offers versions 20 to 25 of FETCH, penstock speaks 4 to 17"
    ):
        versions.pick(Api.FETCH)
    with pytest.raises(UnsupportedVersionError, match="no version of JOIN_GROUP"):
        versions.pick(Api.JOIN_GROUP)


def test_error_codes_have_kafkas_names_and_penstocks_kinds() -> None:
    assert error_name(6) == "NOT_LEADER_OR_FOLLOWER"
    assert error_name(31_000) == "UNKNOWN_CODE_31000"
    assert is_retriable(14) and not is_retriable(29) and not is_retriable(31_000)
    assert isinstance(error_for(30, "reading group 'g'"), AuthorizationError)
    error = error_for(25, "joining group 'g'", "why not")
    assert isinstance(error, GroupError)
    assert (error.code, error.name) == (25, "UNKNOWN_MEMBER_ID")
    assert str(error) == "joining group 'g': UNKNOWN_MEMBER_ID (why not)"
