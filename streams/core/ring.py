"""Keys of the fleet's rows, and the ring of device hashes on which campaigns go round.

A campaign begins at a place of the ring that its own id gives: the order is fixed, nobody chose
it, and the first devices of one campaign are not the first of every campaign.
"""

import functools
import hashlib

from streams.core.windows import RING

INSTANT_DIGITS = 15
DEFAULTS_KEY = b"defaults"


@functools.lru_cache(maxsize=100_000)
def place(text: str) -> int:
    """Return the place of an id on the ring, 0 to RING - 1."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def distance(origin: str, device_id: str) -> int:
    """Return how far behind `origin` (16 hex digits) a device lies on the ring."""
    return (place(device_id) - int(origin, 16)) % RING


def fleet_key(fleet_id: str) -> bytes:
    """Return the key of a fleet's row."""
    return f"fleet:{fleet_id}".encode()


def history_key(fleet_id: str) -> bytes:
    """Return the key of a fleet's configuration history."""
    return f"history:{fleet_id}".encode()


def members(fleet_id: str) -> bytes:
    """Return the prefix of a fleet's members."""
    return f"member:{fleet_id}/".encode()


def member_key(fleet_id: str, device_id: str) -> bytes:
    """Return the key of a member's row."""
    return f"member:{fleet_id}/{place(device_id):016x}/{device_id}".encode()


def expiries(fleet_id: str) -> bytes:
    """Return the prefix of a fleet's members by the end of their certificates."""
    return f"expiry:{fleet_id}/".encode()


def expiry_key(fleet_id: str, not_after_at: int, device_id: str) -> bytes:
    """Return a member's key in that order."""
    return f"expiry:{fleet_id}/{not_after_at:0{INSTANT_DIGITS}d}/{device_id}".encode()


def campaign_key(fleet_id: str, campaign_id: str) -> bytes:
    """Return the key of a campaign's row."""
    return f"campaign:{fleet_id}/{campaign_id}".encode()


def queue(fleet_id: str, campaign_id: str) -> bytes:
    """Return the prefix of all who wait in a campaign."""
    return f"queue:{fleet_id}/{campaign_id}/".encode()


def lane(fleet_id: str, campaign_id: str, name: str) -> bytes:
    """Return the prefix of one lane: a group's two digits, or `urgent`."""
    return f"queue:{fleet_id}/{campaign_id}/{name}/".encode()


def queue_key(prefix: bytes, ready_at: int, origin: str, device_id: str) -> bytes:
    """Return a device's key in a lane: by instant, then by its distance on the ring."""
    behind = distance(origin, device_id)
    return prefix + instant(ready_at) + f"/{behind:016x}/{device_id}".encode()


def instant(at: int) -> bytes:
    """Return an instant as keys have it: in the order of time."""
    return f"{at:0{INSTANT_DIGITS}d}".encode()


def ready_at(key: bytes, prefix: bytes) -> int:
    """Return the instant in a queue key."""
    return int(key[len(prefix) : len(prefix) + INSTANT_DIGITS])
