"""Prints a topic's messages from its beginning, and goes on as they come: `python consume.py HOST:PORT TOPIC`."""

import sys

import trivium
from trivium import blocking

address, topic = sys.argv[1:]
with blocking.connect(address) as client, client.consumer(topic, start=trivium.EARLIEST) as consumer:
    for message in consumer:
        print(message.key, message.value, flush=True)
