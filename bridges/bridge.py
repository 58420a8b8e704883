"""What the life of a bridge process (run.py) asks of a bridge, whatever protocol its devices speak.

Rules for a bridge: what a device says is acknowledged after Kafka has it, never before; who said
it comes from the session, never from the payload; what cannot be understood is kept in
`dead.letters`, counted by its Reason, and the device is told.
"""

from typing import Protocol

from schemas.commands import Command


class Bridge(Protocol):
    """A translator between the sessions of one protocol and Kafka."""

    door: str
    """The door's name in the history, `mqtt`."""

    async def own(self, buckets: set[int]) -> None:
        """Hold exactly these shares of the devices; leave the others unacknowledged."""

    def progressed(self) -> None:
        """Acknowledge what Kafka has by now; called after each turn of its callbacks."""

    def served(self) -> list[int]:
        """Return the shares of the devices that are really served now."""

    async def keep_down(self) -> None:
        """Keep the way down to devices open, until cancelled."""

    async def deliver(self, command: Command) -> None:
        """Hand a command down; return when the door has it, or when it has expired."""

    async def close(self) -> None:
        """Leave every session. What is not acknowledged comes again to the next owner."""
