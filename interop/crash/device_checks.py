"""What MQTT promises, checked against the log as Kafka reads it. No I/O here: each check returns what is violated.

`log` is name -> payloads in the order of the log (one name is one key, so it lies in one partition).
"""

from __future__ import annotations

Names = dict[str, list[bytes]]


def first_times(payloads: list[bytes]) -> list[bytes]:
    """Without repetitions, in the order of the first time."""
    return list(dict.fromkeys(payloads))


def _difference(found: list[bytes], expected: list[bytes]) -> str:
    missing = [one for one in expected if one not in set(found)]
    more = [one for one in found if one not in set(expected)]
    at = next(
        (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), min(len(found), len(expected))
    )
    return (
        f"{len(found)} found, {len(expected)} expected, {missing[:5]} missing, {more[:5]} unknown, differs from {at} on"
    )


def check_published(sent: Names, log: Names, once: bool) -> list[str]:
    """Everything that was published and acknowledged stands in the log in its order; `once`: not twice either."""
    violated = []
    for name, payloads in sent.items():
        found = log.get(name, [])
        if (found if once else first_times(found)) != payloads:
            violated.append(f"published to {name}: {_difference(found, payloads)}")
    return violated


def check_received(received: Names, log: Names, names_at_qos_2: set[str]) -> list[str]:
    """A durable subscriber has got the log: at QoS 2 exactly so, at QoS 1 with repetitions."""
    violated = []
    for name, payloads in log.items():
        found = received.get(name, [])
        if name in names_at_qos_2:
            if found != payloads:
                violated.append(f"received at QoS 2 from {name}: {_difference(found, payloads)}")
        elif first_times(found) != first_times(payloads):
            violated.append(f"received at QoS 1 from {name}: {_difference(first_times(found), first_times(payloads))}")
    return violated


def check_shared(received: list[Names], log: Names) -> list[str]:
    """Each message has come to some member."""
    violated = []
    for name, payloads in log.items():
        union = {payload for one in received for payload in one.get(name, [])}
        if missing := [payload for payload in first_times(payloads) if payload not in union]:
            violated.append(f"shared, no member got {missing[:5]} ({len(missing)}) of {name}")
    return violated


def check_shared_once(received: list[Names], log: Names, names_at_qos_2: set[str]) -> list[str]:
    """Each message has come to some member, and at QoS 2 to one of them, once."""
    violated = check_shared(received, log)
    for name in names_at_qos_2:
        found = sorted(payload for one in received for payload in one.get(name, []))
        if len(found) > len(set(found)):
            twice = sorted({one for one in found if found.count(one) > 1})
            violated.append(f"shared at QoS 2, {twice[:5]} ({len(twice)}) of {name} came more than once")
    return violated


def check_retained(retained: dict[str, bytes], log: Names) -> list[str]:
    """What is retained is the last of the log, for names whose messages all say RETAIN."""
    wanted = {name: payloads[-1] for name, payloads in log.items()}
    return [
        f"retained for {name}: {retained.get(name)!r} where the log ends with {payload!r}"
        for name, payload in wanted.items()
        if retained.get(name) != payload
    ]


def check_wills(owed: list[tuple[str, bytes]], log: Names) -> list[str]:
    """The will of every client that was accepted and cut is in the log once."""
    violated = []
    for name, payload in owed:
        count = log.get(name, []).count(payload)
        if count != 1:
            violated.append(f"the will {payload!r} of {name} was published {count} times")
    return violated
