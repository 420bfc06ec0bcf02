"""mosquitto_pub, mosquitto_sub and mosquitto_rr from Debian, by command line, in MQTT 3.1, 3.1.1 and 5."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from harness import main, same, test, true, unique
from mqtt_device import HOST, PORT
from mqtt_scenarios import control

VERSIONS = {"3.1": "mqttv31", "3.1.1": "mqttv311", "5": "mqttv5"}
AT = ["-h", HOST, "-p", str(PORT)]


def run(program: str, version: str, *arguments: str, given: bytes = b"", timeout_s: float = 20.0) -> str:
    """Runs one of the programs to its end. Raises AssertionError with what it said where it fails."""
    command = [program, *AT, "-V", VERSIONS[version], *arguments]
    done = subprocess.run(command, input=given, capture_output=True, timeout=timeout_s)
    error = done.stderr.decode(errors="replace")
    true(done.returncode == 0, f"{program} {' '.join(arguments)}: {done.returncode}, {error[-300:]}")
    return done.stdout.decode()


class Subscriber:
    """A mosquitto_sub that prints JSON; `-d` tells when its subscription stands."""

    def __init__(self, version: str, *arguments: str) -> None:
        command = ["stdbuf", "-oL", "mosquitto_sub", *AT, "-V", VERSIONS[version], "-F", "%j", "-d", *arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self._process.stdout is not None
        self._lines = self._process.stdout
        while not (line := self._lines.readline()).startswith("Subscribed"):
            true(line, f"mosquitto_sub {' '.join(arguments)} ended")

    def read(self, count: int) -> list[dict[str, Any]]:
        """The next `count` messages."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            line = self._lines.readline()
            true(line, f"mosquitto_sub ended after {len(found)} of {count} messages")
            if line.startswith("{"):
                found.append(json.loads(line))
        return found

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(10)


def each_version(name: str) -> Any:
    def register(function: Any) -> Any:
        for version in VERSIONS:
            test(f"{name}-v{version}", version)(function)
        return function

    return register


@each_version("publish-and-subscribe")
def publish_and_subscribe(version: str) -> None:
    topic = unique("mosquitto")
    subscribers = [Subscriber(version, "-t", f"{topic}/#", "-q", str(qos)) for qos in range(3)]
    lines = [f"line-{number}" for number in range(50)]
    for qos in range(3):
        given = "\n".join(lines).encode() + b"\n"
        run("mosquitto_pub", version, "-t", f"{topic}/{qos}", "-q", str(qos), "-l", given=given)
    for granted, one in enumerate(subscribers):
        found = one.read(150)
        for qos in range(3):
            same([m["payload"] for m in found if m["topic"] == f"{topic}/{qos}"], lines, f"payloads {qos}->{granted}")
            same({m["qos"] for m in found if m["topic"] == f"{topic}/{qos}"}, {min(qos, granted)}, "QoS")
        one.end()


@each_version("retained")
def retained(version: str) -> None:
    topic = unique("retained")
    for number in range(3):
        run("mosquitto_pub", version, "-t", f"{topic}/{number}", "-q", "1", "-r", "-m", f"kept-{number}")
    run("mosquitto_pub", version, "-t", f"{topic}/1", "-q", "1", "-r", "-n")
    out = run("mosquitto_sub", version, "-t", f"{topic}/#", "-C", "2", "-v", "-W", "15")
    same(sorted(out.split("\n")[:2]), [f"{topic}/0 kept-0", f"{topic}/2 kept-2"], "retained")
    # It removes what it is shown, and ends by its time limit with an error.
    removing = ["mosquitto_sub", *AT, "-V", VERSIONS[version], "-t", f"{topic}/#", "--remove-retained", "-W", "1"]
    subprocess.run(removing, capture_output=True, timeout=20)
    run("mosquitto_pub", version, "-t", f"{topic}/2", "-q", "1", "-r", "-m", "new")
    out = run("mosquitto_sub", version, "-t", f"{topic}/#", "-C", "1", "-v", "-W", "15")
    same(out, f"{topic}/2 new\n", "what is retained after the removal")


def _offline(version: str, how: str) -> None:
    topic, client_id = unique("session"), unique("device")
    session = ["-i", client_id, "-c", "-q", "2", "-t", f"{topic}/#"]
    if version == "5":
        session += ["-x", "3600"]
    run("mosquitto_sub", version, *session, "-E")
    for number in range(10):
        run("mosquitto_pub", version, "-t", f"{topic}/a", "-q", str(1 + number % 2), "-m", str(number))
    if how:
        control(how)
    out = run("mosquitto_sub", version, *session, "-C", "10", "-W", "15")
    same(sorted(out.split()), [str(number) for number in range(10)], "what came while it was away")


for _version in VERSIONS:
    test(f"persistent-session-v{_version}", _version, "")(_offline)
    test(f"persistent-session-over-kill-v{_version}", _version, "kill")(_offline)


@each_version("will")
def will(version: str) -> None:
    topic = unique("will")
    watcher = Subscriber(version, "-t", f"{topic}/#", "-q", "1")
    command = ["mosquitto_sub", *AT, "-V", VERSIONS[version], "-t", f"{topic}/x", "-d"]
    command = ["stdbuf", "-oL", *command, "--will-topic", f"{topic}/gone", "--will-payload", "cut", "--will-qos", "1"]
    doomed = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert doomed.stdout is not None
    while not (line := doomed.stdout.readline()).startswith("Subscribed"):
        true(line, "mosquitto_sub ended")
    doomed.kill()
    doomed.wait()
    same([(m["topic"], m["payload"]) for m in watcher.read(1)], [(f"{topic}/gone", "cut")], "will")
    watcher.end()


@test("shared-subscription-v5")
def shared() -> None:
    topic, group = unique("shared"), unique("group")
    members = [Subscriber("5", "-t", f"$share/{group}/{topic}/#", "-q", "1") for _ in range(2)]
    run("mosquitto_pub", "5", "-t", f"{topic}/a", "-q", "1", "-l", given=b"".join(b"%d\n" % n for n in range(40)))
    found = [m["payload"] for one in members for m in one.read(20)]
    same(sorted(map(int, found)), list(range(40)), "each message to one member, in turn")
    for one in members:
        one.end()


@test("properties-v5")
def properties() -> None:
    topic = unique("properties")
    watcher = Subscriber("5", "-t", topic, "-q", "2", "-D", "subscribe", "subscription-identifier", "9")
    chosen = ["content-type text/plain", "response-topic answers/x", "correlation-data 12ab"]
    chosen += ["payload-format-indicator 1", "message-expiry-interval 90", "user-property a 1", "user-property b 2"]
    arguments = [word for one in chosen for word in ("-D", "publish", *one.split(" "))]
    run("mosquitto_pub", "5", "-t", topic, "-q", "2", "-m", "text", *arguments)
    found = watcher.read(1)[0]["properties"]
    true(85 <= found.pop("message-expiry-interval") <= 90, "expiry")
    same(found.pop("subscription-identifier", [9]) in (9, [9]), True, "subscription identifier")
    same(found.pop("user-properties"), {"a": "1", "b": "2"}, "user properties")
    wanted = {"content-type": "text/plain", "response-topic": "answers/x", "correlation-data": "12ab"}
    same(found, {**wanted, "payload-format-indicator": 1}, "properties")
    watcher.end()


@each_version("large-payload")
def large(version: str) -> None:
    topic = unique("large")
    watcher = Subscriber(version, "-t", topic, "-q", "1")
    run("mosquitto_pub", version, "-t", topic, "-q", "1", "-s", given=b"x" * 900_000)
    same(len(watcher.read(1)[0]["payload"]), 900_000, "size")
    watcher.end()


@each_version("keep-alive")
def keep_alive(version: str) -> None:
    topic = unique("idle")
    # mosquitto_sub takes no keep alive below 5 s.
    watcher = Subscriber(version, "-t", topic, "-q", "1", "-k", "5")
    time.sleep(8.0)
    run("mosquitto_pub", version, "-t", topic, "-q", "1", "-m", "still there")
    same([m["payload"] for m in watcher.read(1)], ["still there"], "after more than one and a half keep alives")
    watcher.end()


@test("take-over-v5")
def take_over() -> None:
    topic, client_id = unique("over"), unique("device")
    first = subprocess.Popen(
        ["stdbuf", "-oL", "mosquitto_sub", *AT, "-V", "mqttv5", "-i", client_id, "-t", topic, "-d", "-k", "60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert first.stdout is not None
    while not (line := first.stdout.readline()).startswith("Subscribed"):
        true(line, "mosquitto_sub ended")
    run("mosquitto_pub", "5", "-i", client_id, "-t", topic, "-q", "1", "-m", "x")
    line = first.stdout.readline()
    while line and "DISCONNECT (142)" not in line:
        line = first.stdout.readline()
    first.kill()
    first.wait()
    true(line, "the first was not told why (142)")


@test("request-response-v5")
def request_response() -> None:
    topic, answers = unique("ask"), unique("answers")
    server = Subscriber("5", "-t", topic, "-q", "1")
    asking = subprocess.Popen(
        ["mosquitto_rr", *AT, "-V", "mqttv5", "-t", topic, "-e", answers, "-q", "1", "-m", "2+2", "-W", "15"],
        stdout=subprocess.PIPE,
        text=True,
    )
    asked = server.read(1)[0]
    same(asked["properties"]["response-topic"], answers, "response topic")
    run("mosquitto_pub", "5", "-t", answers, "-q", "1", "-m", "4")
    same(asking.communicate(timeout=20)[0].strip(), "4", "the answer")
    server.end()


if __name__ == "__main__":
    sys.exit(main())
