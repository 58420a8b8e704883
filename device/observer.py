"""Who wants to know what an agent does: a protocol of callbacks, and two ready-made listeners.

Rules of this file: a callback is quick and does not raise; `on_kept` comes after the item is
durable, so a ledger of `kept` against `recorded` proves that nothing was lost.
"""

import json
import time
from collections import Counter
from pathlib import Path

KEPT, SENT, RECORDED, REFUSED = "kept", "sent", "recorded", "refused"


class Observer:
    """Does nothing; override what you want to know. `boot` and `sequence` number an item."""

    def on_kept(self, boot: int, sequence: int) -> None:
        """Tell that the item is durable in the outbox."""

    def on_sent(self, boot: int, sequence: int) -> None:
        """Tell that the item went to the broker; an item may be sent many times."""

    def on_recorded(self, boot: int, sequence: int) -> None:
        """Tell that the bridge recorded the item: it is in the history."""

    def on_refused(self, boot: int, sequence: int, reason: str) -> None:
        """Tell that the bridge refused the item for good."""

    def on_connected(self, fingerprint: str) -> None:
        """Tell that a session began under this certificate (hexadecimal SHA-256)."""

    def on_disconnected(self, why: str) -> None:
        """Tell that a session ended, or could not begin."""

    def on_presented(self, fingerprint: str) -> None:
        """Tell that the fleet knows of the maker's certificate: the device waits for its own."""


class Ledger:
    """A JSONL file for many devices: one line per item and what became of it.

    Each line reaches the kernel before the callback returns: a killed process loses none.
    """

    def __init__(self, path: Path) -> None:
        """Open the file for appending."""
        self._file = path.open("a", buffering=1)
        self.counts: Counter[str] = Counter()

    def write(self, device_id: str, what: str, boot: int, sequence: int, detail: str = "") -> None:
        """Write one line and count it."""
        self.counts[what] += 1
        line: dict[str, object] = {"device": device_id, "what": what, "boot": boot}
        line |= {"sequence": sequence, "at": time.time_ns() // 1_000_000}
        line |= {"detail": detail} if detail else {}
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class LedgerObserver(Observer):
    """Writes what one agent does into a ledger, and counts its sessions."""

    def __init__(self, ledger: Ledger, device_id: str) -> None:
        self._ledger = ledger
        self._device_id = device_id

    def on_kept(self, boot: int, sequence: int) -> None:
        """Write that the item is kept."""
        self._ledger.write(self._device_id, KEPT, boot, sequence)

    def on_sent(self, boot: int, sequence: int) -> None:
        """Write that the item was sent."""
        self._ledger.write(self._device_id, SENT, boot, sequence)

    def on_recorded(self, boot: int, sequence: int) -> None:
        """Write that the item is recorded."""
        self._ledger.write(self._device_id, RECORDED, boot, sequence)

    def on_refused(self, boot: int, sequence: int, reason: str) -> None:
        """Write that the item was refused."""
        self._ledger.write(self._device_id, REFUSED, boot, sequence, reason)

    def on_connected(self, fingerprint: str) -> None:
        """Count a session."""
        self._ledger.counts["connected"] += 1

    def on_disconnected(self, why: str) -> None:
        """Count an end."""
        self._ledger.counts["disconnected"] += 1
