"""Who fetches what in a share group: Kafka's simple assignor (KIP-932)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Partition = tuple[bytes, int]  # topic id, index


def assign(
    partitions: Mapping[str, Sequence[Partition]], readers: Mapping[str, Sequence[str]]
) -> dict[str, dict[bytes, list[int]]]:
    """`partitions` of each topic, `readers`: the members that subscribe to it, in a lasting order. Returns, for each
    member, topic id -> partitions. Topics with the same readers are dealt as one pack: every partition to one of them,
    every one of them something, numbers as even as can be; a partition has several when there are more members.
    """
    packs: dict[tuple[str, ...], list[Partition]] = {}
    for topic in sorted(partitions):
        packs.setdefault(tuple(readers[topic]), []).extend(partitions[topic])
    found: dict[str, dict[bytes, list[int]]] = {}
    for members, pack in packs.items():
        for turn in range(max(len(members), len(pack)) if pack else 0):
            topic_id, index = pack[turn % len(pack)]
            found.setdefault(members[turn % len(members)], {}).setdefault(topic_id, []).append(index)
    return found
