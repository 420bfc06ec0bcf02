"""The configuration: precedence, and errors that name source, key and what is allowed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import conf
from conf.load import ConfigError, load
from conf.schema import Address, parse_address, sections

EXAMPLE = Path(conf.__file__).parent / "trivium.toml"


def _file(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "broker.toml"
    file.write_text(text)
    return file


def test_defaults_are_loopback_and_the_usual_ports() -> None:
    config = load(None, {})
    assert config.kafka.listen == Address("127.0.0.1", 9092)
    assert config.mqtt.listen == Address("127.0.0.1", 1883)
    assert config.native.listen == Address("127.0.0.1", 9876)
    assert config.store.flush == "sync"


def test_flags_override_environment_overrides_file(tmp_path: Path) -> None:
    file = _file(tmp_path, '[topics]\nnum_partitions = 2\nretention_ms = 5\n[store]\nflush = "async"\n')
    environment = {"TRIVIUM_TOPICS_NUM_PARTITIONS": "3", "TRIVIUM_STORE_FLUSH": "async", "TRIVIUM_SCRATCH": "elsewhere"}
    config = load(file, environment, {("store", "flush"): ("--flush", "sync")})
    assert (config.topics.num_partitions, config.topics.retention_ms, config.store.flush) == (3, 5, "sync")


def test_example_file_names_every_key_with_its_default(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    uncommented = re.sub(r"^# (?=[a-z0-9_]+ = )", "", text, flags=re.M)
    own = re.sub(
        r"^(data_dir|advertised|tls_certificate|tls_key|password_file|acl_file|allow_anonymous) = .*$",
        "",
        uncommented,
        flags=re.M,
    )
    assert load(_file(tmp_path, own), {}) == load(None, {})
    for section, model in sections().items():
        part = uncommented.split(f"\n[{section}]\n")[1].split("\n[")[0]
        assert re.findall(r"^([a-z0-9_]+) = ", part, flags=re.M) == list(model.model_fields)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[store]\nflush = 'fast'\n", ["broker.toml", "store.flush", "'sync'", "'async'", "'fast'"]),
        ("[store]\nflsh = 'sync'\n", ["broker.toml", "store", "'flsh'", "'flush'", "allowed:", "data_dir"]),
        ("[stor]\nflush = 'sync'\n", ["broker.toml", "unknown section 'stor'", "'store'", "kafka"]),
        ("flush = 'sync'\n", ["broker.toml", "unknown key 'flush'"]),
        ("store = 1\n", ["broker.toml", "store: must be a section, written [store]"]),
        ("[topics]\nnum_partitions = 0\n", ["broker.toml", "topics.num_partitions", "at least 1", "got 0"]),
        ("[topics]\nnum_partitions = 'x'\n", ["broker.toml", "topics.num_partitions", "whole number", "'x'"]),
        ("[topics]\nauto_create = 'perhaps'\n", ["broker.toml", "topics.auto_create", "true or false", "'perhaps'"]),
        ("[kafka]\nlisten = '9092'\n", ["broker.toml", "kafka.listen", "HOST:PORT", "'9092'"]),
        ("[kafka]\nlisten = 9092\n", ["broker.toml", "kafka.listen", "HOST:PORT"]),
        ("[kafka]\nlisten = 'h:70000'\n", ["kafka.listen", "0 to 65535"]),
        ("[kafka]\nlisten = '::1:9092'\n", ["kafka.listen", "brackets"]),
        ("[queues]\nread_bytes = 100000\nleased_bytes_max = 65536\n", ["queues", "read_bytes", "leased_bytes_max"]),
        ("[queues]\nwindow_offsets_max = 0\n", ["queues.window_offsets_max", "at least 1"]),
        ("[groups]\nsession_timeout_ms_min = 9000000\n", ["broker.toml", "groups", "session_timeout_ms_max"]),
        (
            "[limits]\nrequest_bytes_max = 2000\n",
            ["topics.message_bytes_max", "limits.request_bytes_max"],
        ),
        ("[mqtt]\nrules = [{ filter = 3, topic = 't', key = 'k' }]\n", ["mqtt.rules[0].filter: must be text; got 3"]),
        ("[[mqtt.rules]]\nfilter = '+/a'\nkey = '{1}'\n", ["broker.toml: mqtt.rules[0].topic: must be given"]),
        (
            "[[mqtt.rules]]\nfilter = 'a'\nkey = 'k'\ntopic = 't'\nkeys = 'k'\n",
            ["mqtt.rules[0].keys: unknown key; allowed: filter, topic, key"],
        ),
        ("[mqtt]\nws_path = 'mqtt'\n", ["mqtt.ws_path: ", "got 'mqtt'", "^(/[!-~]*|"]),
        ("[store\n", ["broker.toml", "not TOML", "line 1"]),
    ],
)
def test_errors_name_file_key_and_what_is_allowed(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(_file(tmp_path, text), {})
    for part in parts:
        assert part in str(caught.value)


def test_every_problem_gets_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(_file(tmp_path, "[store]\nflush = 'x'\n[log]\nlevel = 'y'\n"), {})
    assert len(str(caught.value).splitlines()) == 2


def test_errors_name_environment_variable_and_flag() -> None:
    with pytest.raises(ConfigError, match=r"environment TRIVIUM_LOG_LEVEL: log\.level: must be one of"):
        load(None, {"TRIVIUM_LOG_LEVEL": "loud"})
    with pytest.raises(ConfigError, match=r"environment TRIVIUM_LOG_LEVLE: unknown key 'levle': did you mean 'level'"):
        load(None, {"TRIVIUM_LOG_LEVLE": "info"})
    with pytest.raises(ConfigError, match=r"^--flush: store\.flush: must be one of"):
        load(None, {}, {("store", "flush"): ("--flush", "never")})


def test_missing_and_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        load(tmp_path / "none.toml", {})
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    with pytest.raises(ConfigError, match="not UTF-8 at byte 2"):
        load(tmp_path / "latin.toml", {})


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "*"])
def test_all_addresses_need_an_advertised_one(host: str) -> None:
    listen = {("kafka", "listen"): ("--kafka", f"{host}:9092")}
    with pytest.raises(ConfigError, match="--kafka-advertised HOST:PORT"):
        load(None, {}, listen)
    advertised = {**listen, ("kafka", "advertised"): ("--kafka-advertised", "broker.example:9092")}
    assert load(None, {}, advertised).kafka.advertised == Address("broker.example", 9092)
    with pytest.raises(ConfigError, match="no client can connect"):
        load(None, {}, {("kafka", "advertised"): ("--kafka-advertised", f"{host}:9092")})


@pytest.mark.parametrize("text", ["127.0.0.1:0", "[::1]:9092", "broker.example:65535"])
def test_addresses_read_back_as_written(text: str) -> None:
    assert str(parse_address(text)) == text
