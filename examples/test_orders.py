"""A test of one's own against a broker of its own. It needs the broker's package and pytest, and nothing to set up."""

import trivium
from gateway.testing import RunningBroker
from trivium import blocking


def test_what_was_sent_survives_a_kill(fresh_trivium_broker: RunningBroker) -> None:
    with blocking.connect(fresh_trivium_broker.native) as client, client.producer() as producer:
        producer.send("orders", b"one", key=b"customer-7")
        fresh_trivium_broker.kill()
        with client.consumer("orders", start=trivium.EARLIEST) as consumer:
            assert next(consumer).value == b"one"
