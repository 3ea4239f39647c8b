"""What a user does wrong, or a network does to them, and the answer they get."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock import DevBroker, KafkaConsumer, TopicPartition
from penstock.errors import (
    ConfigError,
    ConnectionFailedError,
    CorruptRecordError,
    ForkedError,
    KafkaError,
    KafkaTimeoutError,
)

WAIT_S = 20.0


@pytest.fixture
def broker() -> Iterator[DevBroker]:
    with DevBroker() as started:
        yield started


@contextlib.contextmanager
def server(behave: Callable[[socket.socket], None]) -> Iterator[str]:
    """A port on which every connection is handed to `behave`."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)
    stop = threading.Event()
    held: list[socket.socket] = []

    def accept() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                peer, _ = listener.accept()
                held.append(peer)
                with contextlib.suppress(OSError):
                    behave(peer)

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stop.set()
        thread.join()
        for peer in [*held, listener]:
            peer.close()


def why_not(address: str, **config: Any) -> str:
    """What a blocking call says about a bootstrap address that is no use."""
    options: dict[str, Any] = {
        "bootstrap_servers": address,
        "socket_connection_setup_timeout_ms": 300,
        **config,
    }
    with KafkaConsumer(**options) as consumer, pytest.raises(ConnectionFailedError) as caught:
        consumer.partitions_for("t", timeout=1500)
    assert set(caught.value.attempts) == set(address.split(","))
    return str(caught.value)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("option", "value", "hint"),
    [
        ("enable.autocommit", True, "enable.auto.commit"),
        ("bootstrap_server", "x:1", "bootstrap"),
        ("max.poll.record", 5, "max.poll.records"),
        ("max.poll.records", "many", "max.poll.records"),
        ("auto.offset.reset", "begin", "earliest"),
        ("bootstrap.servers", "localhost", "port"),
        ("enable.auto.commit", "perhaps", "enable.auto.commit"),
    ],
)
def test_a_wrong_option_is_an_error_that_names_the_right_one(option: str, value: Any, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        KafkaConsumer("t", **{"bootstrap.servers": "localhost:9092", "group.id": "g", option: value})


def test_an_unreachable_broker_is_named_with_the_reason() -> None:
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    message = why_not(",".join(addresses))
    for address in addresses:
        assert address in message
    assert "refused" in message.lower()


def test_a_name_that_does_not_resolve() -> None:
    assert "no-such-host.invalid" in why_not("no-such-host.invalid:9092")


def test_a_broker_that_never_answers() -> None:
    with server(lambda peer: None) as address:
        message = why_not(address)
    assert "within" in message or "answer" in message


def test_a_port_that_speaks_http() -> None:
    def behave(peer: socket.socket) -> None:
        peer.recv(100)
        peer.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    with server(behave) as address:
        assert "HTTP" in why_not(address)


def test_a_port_that_speaks_tls() -> None:
    def behave(peer: socket.socket) -> None:
        peer.recv(100)
        peer.sendall(bytes.fromhex("15030300020250"))

    with server(behave) as address:
        assert "TLS" in why_not(address)


@pytest.mark.parametrize(
    ("frame", "hint"),
    [
        (b"\xff\xff\xff\xff", "-1"),
        (b"\x7f\xff\xff\xff", "2147483647"),
    ],
)
def test_lengths_that_no_frame_has(frame: bytes, hint: str) -> None:
    def behave(peer: socket.socket) -> None:
        peer.recv(100)
        peer.sendall(frame)

    with server(behave) as address:
        assert hint in why_not(address)


def test_a_frame_that_ends_early() -> None:
    def behave(peer: socket.socket) -> None:
        peer.recv(100)
        peer.sendall(b"\x00\x00\x00\x40\x00\x00")
        peer.close()

    with server(behave) as address:
        assert "closed" in why_not(address).lower()


def test_garbage_instead_of_an_answer() -> None:
    def behave(peer: socket.socket) -> None:
        request = peer.recv(1000)
        peer.sendall(b"\x00\x00\x00\x10" + request[8:12] + b"\x7f" * 12)

    with server(behave) as address:
        assert why_not(address)


def test_another_correlation_id() -> None:
    def behave(peer: socket.socket) -> None:
        peer.recv(1000)
        peer.sendall(b"\x00\x00\x00\x0a" + b"\x00\x00\x30\x39" + bytes(6))

    with server(behave) as address:
        assert "answered request 12345" in why_not(address)


def test_poll_tells_of_an_unreachable_cluster_and_recovers_when_it_comes() -> None:
    port = free_port()
    with KafkaConsumer(
        "t",
        bootstrap_servers=f"127.0.0.1:{port}",
        group_id="g",
        auto_offset_reset="earliest",
        default_api_timeout_ms=600,
        request_timeout_ms=1000,
    ) as consumer:
        with pytest.raises(ConnectionFailedError, match=str(port)):
            _poll_until(consumer, 1)
        with DevBroker(port=port) as broker:
            _produce(broker, "t", [b"hello"])
            assert [r.value for r in _poll_until(consumer, 1, patient=True)] == [b"hello"]


def test_a_broker_that_goes_and_comes_back(tmp_path: Path) -> None:
    port = free_port()
    with DevBroker(port=port, data_dir=tmp_path) as broker:
        _produce(broker, "t", [b"one"])
        consumer = KafkaConsumer(bootstrap_servers=f"127.0.0.1:{port}", auto_offset_reset="earliest")
        consumer.assign([TopicPartition("t", 0)])
        assert [r.value for r in _poll_until(consumer, 1)] == [b"one"]
    with consumer:
        assert len(consumer.poll(timeout=300)) == 0
        with DevBroker(port=port, data_dir=tmp_path) as broker:
            _produce(broker, "t", [b"two"])
            assert [r.value for r in _poll_until(consumer, 1)] == [b"two"]


def test_a_corrupt_batch_is_raised_with_its_place_and_sought_past(tmp_path: Path) -> None:
    """A bit flips on the broker's disk, in the second of three batches."""
    with DevBroker(data_dir=tmp_path) as broker:
        for value in (b"first-value", b"second-value", b"third-value"):
            _produce(broker, "t", [value])
        damaged = 0
        for path in (p for p in tmp_path.rglob("*") if p.is_file()):
            data = path.read_bytes()
            if (at := data.find(b"second-value")) >= 0:
                with path.open("r+b") as file:
                    file.seek(at)
                    file.write(b"S")
                damaged += 1
        assert damaged == 1
        tp = TopicPartition("t", 0)
        with KafkaConsumer(
            bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest"
        ) as consumer:
            consumer.assign([tp])
            seen = []
            with pytest.raises(CorruptRecordError) as caught:
                while True:
                    seen += [r.value for r in consumer.poll(timeout=2000)]
            assert seen == [b"first-value"]
            assert (caught.value.topic, caught.value.partition, caught.value.offset) == ("t", 0, 1)
            with pytest.raises(CorruptRecordError):
                for _ in range(5):
                    consumer.poll(timeout=200)
            assert consumer.position(tp) == 1
            consumer.seek(tp, 2)
            assert [r.value for r in _poll_until(consumer, 1)] == [b"third-value"]


def test_a_forked_child_is_told_and_the_parent_unharmed(broker: DevBroker) -> None:
    _produce(broker, "t", [b"one"])
    with KafkaConsumer(bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest") as consumer:
        consumer.assign([TopicPartition("t", 0)])
        assert len(_poll_until(consumer, 1)) == 1
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException):
                try:
                    consumer.poll(timeout=100)
                except ForkedError as error:
                    code = 0 if "child" in str(error) else 2
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        _produce(broker, "t", [b"two"])
        assert [r.value for r in _poll_until(consumer, 1)] == [b"two"]


def _child(broker: DevBroker, body: str) -> subprocess.Popen[str]:
    code = f"""
        from penstock import KafkaConsumer, TopicPartition
        consumer = KafkaConsumer(bootstrap_servers={broker.bootstrap_servers!r}, auto_offset_reset='earliest')
        consumer.assign([TopicPartition('t', 0)])
    """
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(code) + textwrap.dedent(body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_inside_poll_loses_nothing(broker: DevBroker) -> None:
    _produce(broker, "t", [b"one"])
    child = _child(
        broker,
        """
        seen = []
        print('ready', flush=True)
        try:
            while True:
                seen += [r.value for r in consumer.poll(timeout=60_000)]
                print(len(seen), flush=True)
        except KeyboardInterrupt:
            print('interrupted', consumer.position(TopicPartition('t', 0)), flush=True)
        consumer.close()
        print('closed', flush=True)
        """,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    assert child.stdout.readline() == "1\n"
    time.sleep(0.3)  # into the next poll, where nothing comes
    started = time.monotonic()
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=WAIT_S)
    assert out == "interrupted 1\nclosed\n", err
    assert child.returncode == 0
    assert time.monotonic() - started < WAIT_S


@pytest.mark.parametrize(
    "ending", ["", "import sys; sys.exit(0)", "consumer.poll(timeout=200)", "raise SystemExit(0)"]
)
def test_the_interpreter_ends_with_a_consumer_left_open(broker: DevBroker, ending: str) -> None:
    _produce(broker, "t", [b"one"])
    child = _child(broker, f"consumer.poll(timeout=2000)\n{ending}\n")
    _, err = child.communicate(timeout=WAIT_S)
    assert child.returncode == 0, err
    assert "Fatal" not in err and "Traceback" not in err


def test_close_ends_though_the_broker_is_dead(broker: DevBroker) -> None:
    _produce(broker, "t", [b"one"])
    consumer = KafkaConsumer(
        "t", bootstrap_servers=broker.bootstrap_servers, group_id="g", auto_offset_reset="earliest"
    )
    assert len(_poll_until(consumer, 1)) == 1
    broker.stop()
    threads = threading.active_count()
    consumer.close(timeout=1000)
    assert threading.active_count() < threads


def test_a_timeout_names_what_was_waited_for(broker: DevBroker) -> None:
    with KafkaConsumer(bootstrap_servers=broker.bootstrap_servers) as consumer:
        consumer.assign([TopicPartition("not-there", 0)])
        with pytest.raises((KafkaTimeoutError, KafkaError), match="not-there"):
            consumer.position(TopicPartition("not-there", 0), timeout=1)


def _produce(broker: DevBroker, topic: str, values: list[bytes]) -> None:
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "linger.ms": 0})
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(WAIT_S) == 0


def _poll_until(consumer: KafkaConsumer, count: int, patient: bool = False) -> list[Any]:
    found: list[Any] = []
    deadline = time.monotonic() + WAIT_S
    while len(found) < count and time.monotonic() < deadline:
        with contextlib.suppress(*([ConnectionFailedError] if patient else [])):
            found += consumer.poll(timeout=300)
    return found
