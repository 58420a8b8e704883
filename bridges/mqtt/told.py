"""What devices are told: `recorded`, or a refusal with its Reason, at QoS 1.

Whoever is told is named by the beginning of its topics: `devices/pump-7`, `newcomers/pump-7`.

Rules of this file: whoever acknowledges to the broker never waits for what a device is told. What
is to be told waits here, merged per device, while a bounded number of messages is in the air; so a
slow way down makes fewer and longer messages. Beyond the limit the oldest is given up: the device
repeats what it was not told of, and is told again.
"""

import asyncio
from collections import defaultdict

from mqtt5 import PublishPacket

from bridges.meter import Meter
from bridges.mqtt import outbound
from protocols.mqtt import AT_LEAST_ONCE, Client

WAITING_MAX = 200_000
"""Numbers and refusals that wait for the way down."""
NUMBERS_MAX = 1_000
"""Numbers in one message."""
EXPIRES_SECONDS = 60
"""What the broker keeps for a sleeping device; it repeats everything when it wakes."""


class Teller:
    """Tells devices, over whatever session there is."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._numbers: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._words: list[tuple[str, bytes]] = []
        self._waiting = 0
        self._some = asyncio.Event()

    def recorded(self, whom: str, number: tuple[int, int]) -> None:
        """Tell a device, soon, that Kafka has this event."""
        if self._waiting >= WAITING_MAX:
            self._give_up()
        self._numbers[whom].append(number)
        self._waiting += 1
        self._some.set()

    def say(self, whom: str, payload: bytes) -> None:
        """Tell a device, soon, something by itself: that something was refused for good."""
        if self._waiting >= WAITING_MAX:
            self._give_up()
        self._words.append((whom, payload))
        self._waiting += 1
        self._some.set()

    async def run(self, client: Client) -> None:
        """Tell over this session until it ends. Raises what ended it."""
        while True:
            self._some.clear()
            if not self._waiting:
                await self._some.wait()
            await client.until_room()
            messages = self._next(client.room)
            packets = [
                PublishPacket(
                    topic=f"{whom}/recorded",
                    payload=payload,
                    qos=AT_LEAST_ONCE,
                    packet_id=next(client.packet_ids),
                    content_type="application/json",
                    message_expiry_interval=EXPIRES_SECONDS,
                )
                for whom, payload in messages
            ]
            await client.publish_all(packets)
            self._meter.sent(len(packets))
            await asyncio.sleep(0)  # what comes meanwhile is merged

    def _next(self, count: int) -> list[tuple[str, bytes]]:
        """Take the next messages, at most `count`; the longest waiting device first."""
        taken, self._words = self._words[:count], self._words[count:]
        self._waiting -= len(taken)
        for whom in list(self._numbers)[: count - len(taken)]:
            numbers = self._numbers.pop(whom)
            if len(numbers) > NUMBERS_MAX:
                self._numbers[whom] = numbers[NUMBERS_MAX:]
                numbers = numbers[:NUMBERS_MAX]
            self._waiting -= len(numbers)
            taken.append((whom, outbound.recorded(numbers)))
        return taken

    def _give_up(self) -> None:
        """Make room: drop what waits longest."""
        if self._words:
            dropped = len(self._words)
            self._words.clear()
        else:
            dropped = len(self._numbers.pop(next(iter(self._numbers))))
        self._waiting -= dropped
        self._meter.untold(dropped)
