"""One of the workers who share a topic's messages; SIGTERM lets it finish: `python worker.py HOST:PORT TOPIC`."""

import asyncio
import sys

import trivium


async def work(message: trivium.QueueMessage) -> None:
    print(message.value, flush=True)  # raise, and it comes again after a while


async def main(address: str, topic: str) -> None:
    async with (
        trivium.connect(address) as client,
        client.subscribe(topic, group="workers", start=trivium.EARLIEST) as me,
    ):
        await me.run(work, concurrency=4)


asyncio.run(main(*sys.argv[1:]))
