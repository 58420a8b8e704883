"""Shares: the part of a door through which a device comes, known to doors, bridges and machine.

The broker's plugin computes the same in C (bridges/mqtt/broker/stamp.c).
"""

_BASIS = 2166136261
_PRIME = 16777619


def share_of(device_id: str, shares: int) -> int:
    """Return the share of a device: FNV-1a (32 bits) of the id, modulo `shares`."""
    value = _BASIS
    for byte in device_id.encode():
        value = ((value ^ byte) * _PRIME) & 0xFFFFFFFF
    return value % shares
