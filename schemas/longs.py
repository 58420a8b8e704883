"""Avro's long in Python (Avro 1.12, "Binary Encoding": zigzag, then seven bits a byte, low first).

fastavro writes everything else. A record of nothing but longs is cheaper here: most are small, and
of the large ones (instants of machine time) the same few come again and again.
"""

import functools

REMEMBERED_MAX = 65_536
"""Numbers whose bytes are remembered."""

_PAIR = 1 << 14
"""Numbers of two bytes, seven bits in each."""
_MORE = [bytes((one & 0x7F | 0x80, one >> 7 | 0x80)) for one in range(_PAIR)]
"""The bytes of such a number where more follow."""
_LAST = [bytes((one,)) for one in range(0x80)]
_LAST += [bytes((one & 0x7F | 0x80, one >> 7)) for one in range(0x80, _PAIR)]
"""And where they are the last."""


def varint(rest: int) -> bytes:
    """Return the bytes of a number that is not negative, after its zigzag."""
    if rest < _PAIR:
        return _LAST[rest]
    out = b""
    while rest >= _PAIR:
        out += _MORE[rest % _PAIR]
        rest //= _PAIR
    return out + _LAST[rest]


@functools.lru_cache(maxsize=REMEMBERED_MAX)
def long(value: int) -> bytes:
    """Return the bytes of a number of 64 bits. Raises OverflowError for a larger one."""
    if not -(2**63) <= value < 2**63:
        raise OverflowError(f"{value} does not fit a long")
    return varint((value << 1) ^ (value >> 63))
