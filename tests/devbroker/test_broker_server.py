"""The broker as a process and as a server: kill -9, hostile bytes, interceptors, start and stop."""

from __future__ import annotations

import dataclasses
import io
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.devbroker import CLOSE, Delay, DevBroker
from penstock.devbroker.apis import APIS
from penstock.devbroker.codes import Code

WAIT_S = 15
PRODUCE, FETCH, METADATA, OFFSET_COMMIT, API_VERSIONS = 0, 1, 3, 8, 18


@pytest.fixture(scope="module")
def broker() -> Iterator[DevBroker]:
    with DevBroker() as running:
        yield running


class Wire:
    """A raw connection: frames as they are."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)

    def send(self, api_key: int, version: int, body: bytes = b"", correlation_id: int = 7) -> None:
        frame = struct.pack(">hhih", api_key, version, correlation_id, -1) + body
        self.socket.sendall(struct.pack(">i", len(frame)) + frame)

    def receive(self) -> bytes | None:
        """A frame, or None if the broker hung up."""
        length = self._exactly(4)
        return None if length is None else self._exactly(struct.unpack(">i", length)[0])

    def _exactly(self, count: int) -> bytes | None:
        data = b""
        while len(data) < count:
            try:
                more = self.socket.recv(count - len(data))
            except ConnectionResetError:
                return None
            if not more:
                return None
            data += more
        return data

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


# ---------------------------------------------------------------- versions and hostile bytes
def test_an_unknown_version_of_api_versions_is_answered_in_version_0(broker: DevBroker) -> None:
    with Wire(broker.port) as wire:
        wire.send(API_VERSIONS, 99)
        answer = wire.receive()
        assert answer is not None
        correlation_id, code, count = struct.unpack_from(">ihi", answer)
        assert (correlation_id, code, count) == (7, Code.UNSUPPORTED_VERSION, len(APIS))
        wire.send(API_VERSIONS, 0)
        assert struct.unpack_from(">ih", wire.receive() or b"") == (7, 0)


def test_every_advertised_version_has_its_schemas_and_a_refusal() -> None:
    from kio.index import load_request_schema, load_response_schema

    for api in APIS.values():
        api.load()
        for version in range(api.low, api.high + 1):
            assert load_request_schema(api.key, version).__api_key__ == api.key
            assert load_response_schema(api.key, version).__version__ == version


@pytest.mark.parametrize(
    "frame",
    [
        struct.pack(">i", -1),
        struct.pack(">i", 2**31 - 1),
        struct.pack(">i", 0),
        struct.pack(">ih", 2, 18),
        struct.pack(">ihhih", 10, 999, 0, 1, -1),
        struct.pack(">ihhih", 10, PRODUCE, 2, 1, -1),
        struct.pack(">ihhih", 10, METADATA, 1, 1, -1),
        struct.pack(">ihhihi", 14, METADATA, 1, 1, -1, 2**31 - 1),
        struct.pack(">ihhihi", 14, METADATA, 1, 1, -1, -2),
        struct.pack(">ihhih", 10, METADATA, 1, 1, 30_000),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_bytes_that_are_no_request_end_that_connection_alone(broker: DevBroker, frame: bytes) -> None:
    with Wire(broker.port) as wire:
        wire.socket.sendall(frame)
        assert wire.receive() is None
    with Wire(broker.port) as wire:
        wire.send(API_VERSIONS, 0)
        assert wire.receive()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(api_key=st.sampled_from(sorted(APIS)), shift=st.integers(0, 20), body=st.binary(max_size=80))
def test_any_body_is_answered_or_ends_the_connection(
    broker: DevBroker, api_key: int, shift: int, body: bytes
) -> None:
    api = APIS[api_key]
    version = api.low + shift % (api.high - api.low + 1)
    with Wire(broker.port) as wire:
        wire.send(api_key, version, body)
        wire.socket.shutdown(socket.SHUT_WR)
        answer = wire.receive()
        assert answer is None or answer[:4] == struct.pack(">i", 7)


def test_requests_sent_at_once_are_answered_in_order(broker: DevBroker) -> None:
    with Wire(broker.port) as wire:
        for number in range(3000):
            wire.send(API_VERSIONS, 0, correlation_id=number)
        for number in range(3000):
            assert (wire.receive() or b"")[:4] == struct.pack(">i", number)


def test_a_frame_sliced_byte_by_byte(broker: DevBroker) -> None:
    with Wire(broker.port) as wire:
        wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in struct.pack(">ihhih", 10, API_VERSIONS, 0, 1, -1):
            wire.socket.sendall(bytes([byte]))
        assert wire.receive()


# ---------------------------------------------------------------- interceptors
def producer(broker: DevBroker, **config: Any) -> Producer:
    return Producer({"bootstrap.servers": broker.bootstrap_servers, **config})


def test_an_interceptor_answers_with_an_error_until_it_is_removed(broker: DevBroker) -> None:
    broker.create_topic("refused")
    remove = broker.intercept(PRODUCE, lambda request, connection: Code.INVALID_RECORD)
    errors: list[Any] = []
    sender = producer(broker, **{"message.timeout.ms": 5000})
    sender.produce("refused", b"x", on_delivery=lambda error, _: errors.append(error))
    sender.flush(WAIT_S)
    assert errors[0].name() == "INVALID_RECORD"
    remove()
    sender.produce("refused", b"x", on_delivery=lambda error, _: errors.append(error))
    assert sender.flush(WAIT_S) == 0
    assert errors[1] is None
    assert broker.end_offsets("refused") == {0: 1}


def test_a_transient_error_is_retried_by_the_client(broker: DevBroker) -> None:
    broker.create_topic("retried")
    seen: list[int] = []

    def twice(request: Any, connection: Any) -> Code | None:
        seen.append(request.version)
        return Code.NOT_LEADER_OR_FOLLOWER if len(seen) <= 2 else None

    remove = broker.intercept(PRODUCE, twice)
    sender = producer(broker, **{"enable.idempotence": True})
    sender.produce("retried", b"x")
    assert sender.flush(WAIT_S) == 0
    remove()
    assert len(seen) == 3
    assert broker.end_offsets("retried") == {0: 1}


def test_a_request_is_held_until_the_test_says_so(broker: DevBroker) -> None:
    broker.create_topic("held")
    verdict: Future[Any] = Future()
    arrived = threading.Event()

    def hold(request: Any, connection: Any) -> Future[Any]:
        arrived.set()
        return verdict

    remove = broker.intercept(PRODUCE, hold)
    sender = producer(broker)
    sender.produce("held", b"x")
    assert arrived.wait(WAIT_S)
    assert broker.end_offsets("held") == {0: 0}
    remove()
    verdict.set_result(None)
    assert sender.flush(WAIT_S) == 0
    assert broker.end_offsets("held") == {0: 1}


def test_an_answer_lost_on_the_way_makes_no_duplicate(broker: DevBroker) -> None:
    """The batch is stored, the connection dies before the answer; an idempotent producer sends it again."""
    broker.create_topic("lost")
    lost: list[int] = []

    def lose_first(request: Any, connection: Any) -> Any:
        if not lost:
            lost.append(1)
            from penstock.devbroker.apis import Call
            from penstock.devbroker.apis.produce import handle

            assert broker._server is not None
            handle(Call(broker._server, connection, request))
            return CLOSE
        return None

    remove = broker.intercept(PRODUCE, lose_first)
    sender = producer(broker, **{"enable.idempotence": True})
    sender.produce("lost", b"x")
    assert sender.flush(WAIT_S) == 0
    remove()
    assert lost
    assert broker.end_offsets("lost") == {0: 1}


def test_fields_delay_and_a_failing_interceptor(broker: DevBroker, caplog: pytest.LogCaptureFixture) -> None:
    with Wire(broker.port) as wire:
        remove = broker.intercept(API_VERSIONS, lambda request, connection: {"error_code": 0, "api_keys": []})
        wire.send(API_VERSIONS, 0)
        assert wire.receive() == struct.pack(">ihi", 7, 0, 0)
        remove()
        remove = broker.intercept(API_VERSIONS, lambda request, connection: Delay(0.01))
        wire.send(API_VERSIONS, 0)
        assert len(wire.receive() or b"") > 100
        remove()
        remove = broker.intercept(API_VERSIONS, lambda request, connection: 1 / 0)
        wire.send(API_VERSIONS, 0)
        assert struct.unpack_from(">ih", wire.receive() or b"") == (7, Code.UNKNOWN_SERVER_ERROR)
        remove()
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("api", APIS.values(), ids=lambda api: api.name)
def test_every_version_of_every_api_is_answered(
    broker: DevBroker, api: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A request with one of everything, about things that are not there: an answer by the schema, and no exception."""
    from kio.index import load_request_schema, load_response_schema
    from kio.serial import entity_reader, entity_writer

    with Wire(broker.port) as raw:
        for version in range(api.low, api.high + 1):
            schema = load_request_schema(api.key, version)
            given = {"acks": -1} if api.name == "produce" else {}
            body = dataclasses.replace(sample(schema), **given)
            header = schema.__header_schema__(
                **{
                    "request_api_key": api.key,
                    "request_api_version": version,
                    "correlation_id": 7,
                    "client_id": "c",
                }
            )
            frame = io.BytesIO()
            entity_writer(type(header))(frame, header)
            entity_writer(schema)(frame, body)
            raw.socket.sendall(struct.pack(">i", len(frame.getvalue())) + frame.getvalue())
            answer = raw.receive()
            assert answer is not None, f"version {version} closed the connection: {caplog.text}"
            answer_schema = load_response_schema(api.key, version)
            _, size = entity_reader(answer_schema.__header_schema__)(answer, 0)
            found, body_size = entity_reader(answer_schema)(answer, size)
            assert size + body_size == len(answer)
            assert found.__version__ == version
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("api", APIS.values(), ids=lambda api: api.name)
def test_any_error_can_be_answered_in_any_version(api: Any) -> None:
    """The refusal of every API fits every version's schema, and says the code somewhere."""
    from kio.index import load_request_schema
    from kio.serial import entity_writer

    from penstock.devbroker import wire

    for version in range(api.low, api.high + 1):
        body = sample(load_request_schema(api.key, version))
        frame = wire.encode(api.key, version, 1, api.load()[1](body, Code.NOT_COORDINATOR))
        assert struct.pack(">h", Code.NOT_COORDINATOR) in frame, (
            f"{api.name} version {version} does not say it"
        )
        assert entity_writer(type(body)) is not None


def sample(schema: type) -> Any:
    """A request with one of everything."""
    from kio.serial._introspect import EntityTupleField, PrimitiveTupleField, classify_field

    from penstock.devbroker import wire

    values: dict[str, Any] = {}
    for field in dataclasses.fields(schema):
        kind = classify_field(field)
        if isinstance(kind, EntityTupleField):
            values[field.name] = (sample(kind.type_),)
        elif isinstance(kind, PrimitiveTupleField):
            values[field.name] = ("x",) if field.metadata["kafka_type"] == "string" else (3,)
        elif field.metadata.get("kafka_type") == "string":
            values[field.name] = "x"
    built = wire.build(schema, {})
    return dataclasses.replace(built, **values)


# ---------------------------------------------------------------- start and stop
def test_it_starts_stops_and_starts_again_with_its_records_and_port(caplog: pytest.LogCaptureFixture) -> None:
    threads = set(threading.enumerate())
    broker = DevBroker()
    with pytest.raises(RuntimeError, match="call start"):
        _ = broker.bootstrap_servers
    with broker:
        address = broker.bootstrap_servers
        sender = producer(broker)
        sender.produce("t", b"x")
        assert sender.flush(WAIT_S) == 0
    assert "development and tests" in caplog.text
    assert not broker.running
    with pytest.raises(RuntimeError, match="does not run"):
        broker.create_topic("u")
    with broker:
        assert broker.bootstrap_servers == address
        assert broker.end_offsets("t") == {0: 1}
    assert [each for each in threading.enumerate() if each not in threads] == []


def test_errors_name_the_reason(broker: DevBroker) -> None:
    with pytest.raises(ValueError, match=r"unknown broker option 'num\.partition'"):
        DevBroker(**{"num.partition": 3})
    with pytest.raises(ValueError, match="expected a whole number"):
        DevBroker(num_partitions="many")
    with pytest.raises(OSError, match="address already in use"):
        DevBroker(port=broker.port).start()
    broker.create_topic("twice")
    with pytest.raises(ValueError, match="TOPIC_ALREADY_EXISTS"):
        broker.create_topic("twice")
    with pytest.raises(ValueError, match="unknown topic config retention"):
        broker.create_topic("typo", config={"retention": 1})
    with pytest.raises(ValueError, match="UNKNOWN_TOPIC"):
        broker.delete_topic("never")


def test_importing_and_starting_loads_no_schemas() -> None:
    """What takes the time at start is kio's schemas: they come with the first request."""
    code = (
        "import sys; from penstock.devbroker import DevBroker; b = DevBroker().start(); "
        "print(sorted(m for m in sys.modules if m == 'kio' or m.startswith('kio.'))); b.stop()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=WAIT_S
    )
    assert done.stdout.strip() == "[]"


def test_disconnected_clients_come_back(broker: DevBroker) -> None:
    broker.create_topic("back")
    reader = Consumer(
        {
            "bootstrap.servers": broker.bootstrap_servers,
            "group.id": "back",
            "auto.offset.reset": "earliest",
            "reconnect.backoff.ms": 10,
        }
    )
    reader.subscribe(["back"])
    sender = producer(broker, **{"reconnect.backoff.ms": 10})
    for number in range(3):
        sender.produce("back", str(number).encode())
        assert sender.flush(WAIT_S) == 0
        message = None
        deadline = time.monotonic() + WAIT_S
        while message is None and time.monotonic() < deadline:
            message = reader.poll(0.2)
        assert message is not None
        assert message.value() == str(number).encode()
        assert broker.disconnect_all() > 0
    reader.close()


# ---------------------------------------------------------------- a process and its death
class BrokerProcess:
    def __init__(self, data_dir: Path, *more: str) -> None:
        command = [
            sys.executable,
            "-m",
            "penstock.devbroker",
            "--port",
            "0",
            "--data-dir",
            str(data_dir),
            *more,
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address, self.process.communicate()[1]

    def end(self, number: signal.Signals) -> str:
        self.process.send_signal(number)
        return self.process.communicate(timeout=WAIT_S)[1]


def read_all(address: str, topic: str) -> list[bytes]:
    reader = Consumer({"bootstrap.servers": address, "group.id": "reader", "enable.auto.commit": False})
    partition = TopicPartition(topic, 0, 0)
    _, end = reader.get_watermark_offsets(partition, timeout=WAIT_S)
    reader.assign([partition])
    values: list[bytes] = []
    deadline = time.monotonic() + WAIT_S
    while len(values) < end and time.monotonic() < deadline:
        values += [message.value() for message in reader.consume(end, 0.5)]
    reader.close()
    return values


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    running = BrokerProcess(tmp_path, "--set", "num.partitions=1")
    acknowledged: list[bytes] = []
    sender = Producer({"bootstrap.servers": running.address, "message.timeout.ms": 2000, "linger.ms": 0})

    def delivered(error: Any, message: Any) -> None:
        if error is None:
            acknowledged.append(message.value())

    killer = threading.Timer(0.7, running.process.kill)
    killer.start()
    number = 0
    while running.process.poll() is None:
        sender.produce("t", b"%09d" % number + b"x" * 200, on_delivery=delivered)
        number += 1
        sender.poll(0 if number % 50 else 0.001)
    sender.purge()
    sender.flush(WAIT_S)
    running.process.communicate()
    assert len(acknowledged) > 100

    (log_file,) = (tmp_path / "topics").rglob("0.log")
    with log_file.open("ab") as tail:
        tail.write(log_file.read_bytes()[:70])  # a batch half written: a header and a little more
    again = BrokerProcess(tmp_path)
    stored = read_all(again.address, "t")
    said = again.end(signal.SIGTERM)
    assert "70 bytes were cut off" in said
    assert set(acknowledged) <= set(stored)
    assert stored == sorted(stored), "nothing is there twice or out of order"
    assert again.process.returncode == 0


@pytest.mark.parametrize("flush", [False, True])
def test_topics_and_commits_survive_kill_9(tmp_path: Path, flush: bool) -> None:
    running = BrokerProcess(tmp_path, *(["--flush"] if flush else []))
    sender = Producer({"bootstrap.servers": running.address})
    for number in range(5):
        sender.produce("t", str(number).encode(), partition=0)
    assert sender.flush(WAIT_S) == 0
    at = {"bootstrap.servers": running.address, "group.id": "g", "enable.auto.commit": False}
    reader = Consumer(at)
    reader.commit(offsets=[TopicPartition("t", 0, 3, metadata="note")], asynchronous=False)
    reader.close()
    running.end(signal.SIGKILL)

    again = BrokerProcess(tmp_path)
    reader = Consumer({**at, "bootstrap.servers": again.address, "auto.offset.reset": "error"})
    (committed,) = reader.committed([TopicPartition("t", 0)], timeout=WAIT_S)
    assert (committed.offset, committed.metadata) == (3, "note")
    reader.subscribe(["t"])
    message = None
    deadline = time.monotonic() + WAIT_S
    while message is None and time.monotonic() < deadline:
        message = reader.poll(0.5)
    assert message is not None
    assert message.value() == b"3"
    reader.close()
    again.end(signal.SIGINT)


def test_a_second_process_on_the_same_folder_says_why_not(tmp_path: Path) -> None:
    running = BrokerProcess(tmp_path)
    command = [sys.executable, "-m", "penstock.devbroker", "--port", "0", "--data-dir", str(tmp_path)]
    second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=WAIT_S)
    assert second.returncode == 1
    assert "in use by another broker" in second.stderr
    running.end(signal.SIGTERM)


def test_a_full_disk_refuses_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with DevBroker(tmp_path) as broker:
        broker.create_topic("t")

        def full(fd: int, data: Any, position: int) -> int:
            raise OSError(28, "No space left on device")

        errors: list[Any] = []
        sender = producer(broker, **{"message.timeout.ms": 1000, "retries": 0})
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            sender.produce("t", b"x", on_delivery=lambda error, _: errors.append(error.name()))
            sender.flush(WAIT_S)
        assert errors in (["KAFKA_STORAGE_ERROR"], ["_MSG_TIMED_OUT"])
        assert broker.end_offsets("t") == {0: 0}
    assert "No space left" in caplog.text


def test_refused_commits_reach_the_client(broker: DevBroker) -> None:
    broker.create_topic("c")
    remove = broker.intercept(OFFSET_COMMIT, lambda request, connection: Code.UNKNOWN_MEMBER_ID)
    reader = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": "c"})
    with pytest.raises(KafkaException, match="UNKNOWN_MEMBER_ID"):
        reader.commit(offsets=[TopicPartition("c", 0, 1)], asynchronous=False)
    remove()
    reader.close()
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    assert "c" in admin.list_topics(timeout=WAIT_S).topics


def test_log_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="penstock.devbroker")
    with DevBroker() as broker, Wire(broker.port) as wire:
        wire.send(999, 0)
        assert wire.receive() is None
    assert "api key 999 version 0 is not served" in caplog.text
