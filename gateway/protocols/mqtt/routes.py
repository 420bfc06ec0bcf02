"""Names and where their messages go: topic, partition, and how their records begin and end."""

from __future__ import annotations

from typing import Final

from core.filters import check_topic
from core.topic_mapping import TopicMapping, partition_of
from core.topics import Topic, Topics
from gateway.protocols.mqtt import reasons
from gateway.protocols.mqtt.records import headers_of
from trivium.record_writer import Template

ROUTES_MAX: Final = 65_536  # names whose route is remembered


class Route:
    """Where the messages of a name go, and how their records begin and end, by QoS. It holds until topics change.

    `special`: the topic's settings have a say in each message.
    """

    __slots__ = ("key", "partition", "settings", "special", "templates", "topic")

    def __init__(self, topic: Topic, key: bytes | None, partition: int) -> None:
        self.topic = topic.name
        self.settings = topic.settings
        self.special = topic.settings.message_type != "any" or not topic.settings.mqtt_store_qos0
        self.key = key
        self.partition = partition
        self.templates: list[Template | None] = [None, None, None]

    def template(self, qos: int, publisher: str | None) -> Template:
        """For messages without properties and RETAIN."""
        if publisher is not None:
            return Template(self.key, headers_of(qos, False, None, publisher))
        template = self.templates[qos]
        if template is None:
            template = self.templates[qos] = Template(self.key, headers_of(qos, False, None))
        return template


class Routes:
    """`known` has the routes of names that were published under lately, all of them to topics as they are now."""

    def __init__(self, topics: Topics, mapping: TopicMapping) -> None:
        self.known: dict[str, Route] = {}
        self._topics = topics
        self._mapping = mapping
        self._in_catch_all: set[str] = set()  # names whose topic could not be made

    def refusal(self, name: str) -> tuple[int, str] | None:
        """Why nothing may be published under a name, or None."""
        if (problem := check_topic(name)) is not None:
            return reasons.TOPIC_NAME_INVALID, problem
        if name.startswith(("__", "$SYS/", "$share/")) or name in ("$SYS", "$share"):
            return reasons.NOT_AUTHORIZED, "the topic is the broker's own"
        topic = self._topics.get(self._mapping.place(name).topic)
        if topic is not None and not topic.settings.mqtt_visible:
            return reasons.NOT_AUTHORIZED, "the topic is not for MQTT"
        return None

    def forget(self) -> None:
        """Topics have changed."""
        self.known.clear()

    def place(self, name: str) -> tuple[str, bytes | None]:
        """(topic, key of its records) of a name; the topic may have to be made."""
        topic, key = self._mapping.place(name)
        if name in self._in_catch_all and self._topics.get(topic) is None:  # else somebody has made it since
            return self._mapping.catch_all, name.encode()
        return topic, key

    def to_catch_all(self, name: str) -> None:
        """The topic of a name cannot be made."""
        if len(self._in_catch_all) >= ROUTES_MAX:
            self._in_catch_all.clear()
        self._in_catch_all.add(name)

    def add(self, name: str, topic: Topic, key: bytes | None) -> Route:
        if len(self.known) >= ROUTES_MAX:
            self.known.clear()
        partition = topic.partitions[partition_of(key, len(topic.partitions))]
        route = self.known[name] = Route(topic, key, partition)
        return route
