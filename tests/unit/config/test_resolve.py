"""Options: names, types, ranges, what contradicts what, and what an error says."""

from __future__ import annotations

import datetime
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import BY_CLIENT, OPTIONS, ClientKind, Config, Kind, Status, resolve
from penstock.config.option import REQUIRED
from penstock.errors import ConfigError

SERVERS = {"bootstrap.servers": "localhost:9092"}
CLIENTS = get_args(ClientKind)


def consumer(**options: Any) -> Config:
    return resolve("consumer", SERVERS, options)


def refusal(given: dict[str, Any], client: ClientKind = "consumer") -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(client, {**SERVERS, **given})
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


# ------------------------------------------------------------ names


def test_dotted_and_python_names_are_the_same_option() -> None:
    dotted = resolve("consumer", {**SERVERS, "group.id": "g", "max.poll.records": 7})
    python = resolve(
        "consumer", {"bootstrap_servers": "localhost:9092", "group_id": "g", "max_poll_records": 7}
    )
    assert dict(dotted) == dict(python)
    assert dotted.given == python.given == {"bootstrap.servers", "group.id", "max.poll.records"}


def test_one_option_in_both_spellings_is_an_error() -> None:
    assert refusal({"group.id": "a", "group_id": "a"}) == (
        "group.id is given twice, as 'group.id' and as 'group_id'; keep one of them"
    )
    with pytest.raises(ConfigError, match="given twice"):
        resolve("consumer", {**SERVERS, "group.id": "a"}, {"group_id": "a"})


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("enable.autocommit", "no option 'enable.autocommit'; did you mean 'enable.auto.commit'?"),
        ("enable_autocommit", "no option 'enable_autocommit'; did you mean 'enable_auto_commit'?"),
        ("groupid", "no option 'groupid'; did you mean 'group.id'?"),
        ("Group.Id", "no option 'Group.Id'; did you mean 'group.id'?"),
        (
            "enable.auto_commit",
            "no option 'enable.auto_commit'; write 'enable.auto.commit' or 'enable_auto_commit'",
        ),
        ("acks", "no option 'acks' of a consumer: it belongs to the producer"),
        ("consumer_timeout_ms", "no option 'consumer_timeout_ms'; pass a timeout to poll()"),
        ("fetch.wait.max.ms", "no option 'fetch.wait.max.ms'; its name is 'fetch.max.wait.ms'"),
        ("zzz", "no option 'zzz'; docs/configuration.md lists all options of a consumer"),
    ],
)
def test_an_unknown_name_says_which_is_meant(written: str, said: str) -> None:
    assert refusal({written: 1}) == said


def test_a_name_that_is_no_text() -> None:
    assert "the name of an option is a str" in refusal({7: 1})  # type: ignore[dict-item]


@given(st.sampled_from(CLIENTS), st.text(max_size=30))
def test_any_unknown_name_is_a_config_error(client: ClientKind, name: str) -> None:
    known = BY_CLIENT[client]
    if name in known or name.replace("_", ".") in known:
        return
    with pytest.raises(ConfigError) as caught:
        resolve(client, {**SERVERS, name: 1})
    assert repr(name) in str(caught.value)


# ------------------------------------------------------------ defaults


@pytest.mark.parametrize("client", CLIENTS)
def test_every_option_has_its_default(client: ClientKind) -> None:
    config = resolve(client, SERVERS)
    assert set(config) == set(BY_CLIENT[client])
    changed = {"bootstrap.servers", "enable.auto.commit"}  # given, and false without a group
    for name, option in BY_CLIENT[client].items():
        if name not in changed:
            assert config[name] == option.default_for(client), name
            assert name not in config.given


def test_defaults_where_the_clients_differ() -> None:
    kinds: tuple[ClientKind, ...] = ("consumer", "producer", "admin")
    assert [resolve(k, SERVERS)["receive.buffer.bytes"] for k in kinds] == [-1, 32_768, 65_536]
    assert [resolve(k, SERVERS)["connections.max.idle.ms"] for k in kinds] == [540_000, 540_000, 300_000]


@pytest.mark.parametrize("client", CLIENTS)
def test_giving_the_default_of_any_option_is_accepted(client: ClientKind) -> None:
    for name, option in BY_CLIENT[client].items():
        default = option.default_for(client)
        if default is REQUIRED or name == "enable.auto.commit":
            continue
        assert resolve(client, {**SERVERS, name: default})[name] == default, name


def test_bootstrap_servers_is_required() -> None:
    with pytest.raises(ConfigError, match=r"bootstrap\.servers is required"):
        resolve("consumer", {})


# ------------------------------------------------------------ types


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("max.poll.records", "500", 500),
        ("max.poll.records", " 500 ", 500),
        ("enable.metrics.push", "false", False),
        ("check.crcs", "TRUE", True),
        ("check.crcs", True, True),
        ("session.timeout.ms", datetime.timedelta(seconds=10), 10_000),
        ("retry.backoff.ms", datetime.timedelta(microseconds=1500), 1),
        ("client.id", " me ", "me"),
        ("partition.assignment.strategy", "range, roundrobin", ("range", "roundrobin")),
        ("partition.assignment.strategy", ["roundrobin", "roundrobin"], ("roundrobin",)),
        (
            "partition.assignment.strategy",
            "org.apache.kafka.clients.consumer.RoundRobinAssignor",
            ("roundrobin",),
        ),
        ("isolation.level", "READ_COMMITTED", "read_committed"),
        ("security.protocol", "plaintext", "PLAINTEXT"),
        ("auto.offset.reset", "Earliest", "earliest"),
        ("auto.offset.reset", "by_duration:P1DT12H", "by_duration:P1DT12H"),
        ("value.deserializer", None, None),
        ("group.instance.id", None, None),
    ],
)
def test_values_as_javas_properties_have_them(name: str, value: Any, wanted: Any) -> None:
    found = resolve("consumer", {**SERVERS, name: value})[name]
    assert found == wanted
    assert type(found) is type(wanted)


def test_a_deserializer_is_any_callable() -> None:
    assert consumer(value_deserializer=bytes.decode)["value.deserializer"] is bytes.decode


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("max.poll.records", 1.5, "max.poll.records=1.5 is of type float; an int is wanted"),
        ("max.poll.records", True, "max.poll.records=True is of type bool; an int is wanted"),
        ("max.poll.records", "many", "max.poll.records='many' is of type str; an int is wanted"),
        ("max.poll.records", None, "max.poll.records=None is of type NoneType; an int is wanted (leave it out for the default, 500)"),
        ("session.timeout.ms", 1e3, "session.timeout.ms=1000.0 is of type float; an int (milliseconds) or a timedelta is wanted"),
        ("max.poll.records", datetime.timedelta(1), "max.poll.records=datetime.timedelta(days=1) is of type timedelta; an int is wanted"),
        ("enable.auto.commit", 1, "enable.auto.commit=1 is of type int; True or False is wanted"),
        ("enable.auto.commit", "yes", "enable.auto.commit='yes' is of type str; True or False is wanted"),
        ("group.id", b"g", "group.id=b'g' is of type bytes; a str is wanted"),
        ("group.id", "", "group.id is empty: give it a name, or leave it out"),
        ("max.poll.records", 0, "max.poll.records=0 is out of range: at least 1 is wanted"),
        ("fetch.min.bytes", 2**31, "fetch.min.bytes=2147483648 does not fit in Kafka's int: -2147483648 to 2147483647"),
        ("isolation.level", "none", "isolation.level='none': 'none' is not one of read_committed, read_uncommitted"),
        ("partition.assignment.strategy", [], "partition.assignment.strategy is empty: give at least one assignor, e.g. range"),
        (
            "partition.assignment.strategy",
            ["range", 7],
            "partition.assignment.strategy=['range', 7] is of type list; a list of assignors' names or Assignors is wanted "
            "(the entry 7 is of type int)",
        ),
        (
            "value.deserializer",
            "org.apache.kafka.common.serialization.StringDeserializer",
            "value.deserializer='org.apache.kafka.common.serialization.StringDeserializer' is of type str; a function, or None is wanted "
            "(Java class names mean nothing here; give e.g. bytes.decode)",
        ),
    ],
)  # fmt: skip
def test_an_ill_typed_value_names_all_that_matters(name: str, value: Any, said: str) -> None:
    assert refusal({name: value}) == said


@given(st.sampled_from(OPTIONS), st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(),
       st.lists(st.text()), st.dictionaries(st.text(), st.integers())))  # fmt: skip
def test_any_value_is_taken_or_refused_by_name(option: Any, value: Any) -> None:
    client = option.clients[0]
    try:
        config = resolve(client, {**SERVERS, option.name: value})
    except ConfigError as error:
        assert option.name in str(error)
    else:
        assert option.name in config.given


# ------------------------------------------------------------ addresses


@pytest.mark.parametrize(
    ("servers", "wanted"),
    [
        ("a:1", ("a:1",)),
        (" a:1 , b:65535,", ("a:1", "b:65535")),
        (["a:1", "[::1]:9092"], ("a:1", "[::1]:9092")),
        ("PLAINTEXT://a.b-c_d:1", ("PLAINTEXT://a.b-c_d:1",)),
        ("127.0.0.1:9092", ("127.0.0.1:9092",)),
    ],
)
def test_addresses(servers: Any, wanted: tuple[str, ...]) -> None:
    assert resolve("consumer", {"bootstrap.servers": servers})["bootstrap.servers"] == wanted


@pytest.mark.parametrize(
    ("servers", "said"),
    [
        ("", "is empty: give host:port of at least one broker"),
        ([], "is empty: give host:port of at least one broker"),
        ("a", "'a' has no port; host:port is wanted, e.g. a:9092"),
        ("[::1]", "'[::1]' has no port"),
        (":9092", "':9092' has no valid host"),
        ("a:0", "'0' in 'a:0' is no port"),
        ("a:65536", "'65536' in 'a:65536' is no port"),
        ("a:b", "'b' in 'a:b' is no port"),
        ("::1:9092", "the IPv6 address in '::1:9092' needs brackets, as in [::1]:9092"),
        ("http://a:1", "'http://a:1' is no address"),
        ("a b:1", "'a b:1' has no valid host"),
        ("a:1;b:2", "'a:1;b:2' has no valid host"),
    ],
)
def test_addresses_that_are_none(servers: Any, said: str) -> None:
    message = refusal({"bootstrap.servers": servers})
    assert message.startswith("bootstrap.servers")
    assert said in message


# ------------------------------------------------------------ what this version does not have


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("security.protocol", "SASL_SSL", "security.protocol='SASL_SSL': SASL_SSL is not in this version yet; it has PLAINTEXT"),
        ("sasl.mechanism", "PLAIN", "sasl.mechanism='PLAIN' is not in this version yet: this version speaks PLAINTEXT only"),
        ("ssl.truststore.location", "/ca", "ssl.truststore.location='/ca' is not in this version yet: this version speaks PLAINTEXT only"),
    ],
)  # fmt: skip
def test_what_is_not_there_yet_says_so(name: str, value: str, said: str) -> None:
    assert refusal({name: value}) == said


def test_secrets_are_shown_nowhere() -> None:
    secrets = [o.name for o in OPTIONS if o.kind is Kind.PASSWORD]
    assert {"ssl.key.password", "sasl.jaas.config"} <= set(secrets)
    for name in secrets:
        assert "hunter2" not in refusal({name: "hunter2"}), name
        assert "hunter2" not in repr(Config("consumer", {name: "hunter2"}, frozenset({name}))), name


def test_what_has_no_effect_is_accepted() -> None:
    assert consumer(metrics_recording_level="DEBUG")["metrics.recording.level"] == "DEBUG"
    assert all(option.instead for option in OPTIONS if option.status is not Status.WORKS)


# ------------------------------------------------------------ between options


def test_without_a_group_nothing_is_committed_by_itself() -> None:
    assert consumer()["enable.auto.commit"] is False
    assert consumer(group_id="g")["enable.auto.commit"] is True
    assert refusal({"enable.auto.commit": True}) == (
        "enable.auto.commit=True needs group.id: offsets are stored under a group's name"
    )
    assert "needs group.id" in refusal({"group.instance.id": "i"})


def test_heartbeats_fit_into_the_session() -> None:
    assert refusal({"heartbeat.interval.ms": 10_000, "session.timeout.ms": 10_000}) == (
        "heartbeat.interval.ms (10000) is not less than session.timeout.ms (10000): the member would be taken out between two "
        "heartbeats; a third of the session timeout, 3333, is usual"
    )


def test_fetches_fit_into_the_request_timeout() -> None:
    message = refusal({"fetch.max.wait.ms": 30_000})
    assert message.startswith("fetch.max.wait.ms (30000) is not less than request.timeout.ms (30000)")


def test_backoffs_and_their_maximum() -> None:
    raised = consumer(retry_backoff_ms=5_000)
    assert (raised["retry.backoff.ms"], raised["retry.backoff.max.ms"]) == (5_000, 5_000)
    capped = consumer(retry_backoff_ms=5_000, retry_backoff_max_ms=200)
    assert (capped["retry.backoff.ms"], capped["retry.backoff.max.ms"]) == (200, 200)


def test_the_admin_clients_timeouts() -> None:
    assert resolve("admin", SERVERS, {"request_timeout_ms": 90_000})["default.api.timeout.ms"] == 90_000
    assert "default.api.timeout.ms (1) is less than" in refusal({"default.api.timeout.ms": 1}, "admin")


# ------------------------------------------------------------ the mapping


def test_a_config_is_a_read_only_mapping_with_typed_looks() -> None:
    config = consumer(group_id="g")
    assert (config.int("max.poll.records"), config.str("group.id"), config.bool("check.crcs")) == (
        500,
        "g",
        True,
    )
    for look, name in (
        (config.int, "check.crcs"),
        (config.str, "group.instance.id"),
        (config.bool, "max.poll.records"),
    ):
        with pytest.raises(TypeError, match=name):
            look(name)
    with pytest.raises(KeyError):
        config["no.such"]
    with pytest.raises(TypeError):
        config["group.id"] = "h"  # type: ignore[index]
    assert repr(config) == "<Config of a consumer: bootstrap.servers=('localhost:9092',), group.id='g'>"


def test_objects_are_taken_as_they_are() -> None:
    instance = object()
    given = [instance, dict, " a.module:Name "]
    assert consumer(interceptor_classes=given)["interceptor.classes"] == (instance, dict, "a.module:Name")
    assert consumer(interceptor_classes="a:B, c:D")["interceptor.classes"] == ("a:B", "c:D")
    assert "a list of objects" in refusal({"interceptor.classes": 1})
