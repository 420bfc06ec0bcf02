"""Sends one message: `python produce.py HOST:PORT TOPIC KEY TEXT`."""

import sys

from trivium import blocking

address, topic, key, text = sys.argv[1:]
with blocking.connect(address) as client, client.producer() as producer:
    print(producer.send(topic, text.encode(), key=key.encode()).offset)
