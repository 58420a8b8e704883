"""A device's life from a pending key to a dropped certificate, for test_crashes.py to kill.

Writes a line per item that is kept or recorded, so that the test knows what must not be lost.
"""

import sys
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from device import provision
from device.outbox import Outbox
from device.store import Store


def live(directory: Path, ca_folder: Path) -> None:
    """Install a new certificate and drop the old one, as the agent does; may be run again."""
    ca = provision.load_ca(ca_folder / "devices.pem", ca_folder / "devices.key")
    store = Store(directory)
    outbox = Outbox(directory / "outbox.sqlite")
    first = _keep(outbox)
    old = store.current()
    key = store.pending_key("rotate-1")
    _keep(outbox)
    certificate = provision.issue(ca, "lamp", key.public_key(), 3600)
    new = store.install(certificate.public_bytes(serialization.Encoding.DER), "lamp")
    _keep(outbox)
    store.propose(new.fingerprint)
    store.settle(new.fingerprint)
    print("recorded", *first, flush=True)
    outbox.recorded([first])
    store.drop(old.fingerprint)
    outbox.close()


def _keep(outbox: Outbox) -> tuple[int, int]:
    number = outbox.put("t", "c", lambda boot, sequence: f"{boot}.{sequence}".encode())
    print("kept", *number, flush=True)
    return number


if __name__ == "__main__":
    live(Path(sys.argv[1]), Path(sys.argv[2]))
