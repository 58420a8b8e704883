"""Avro's long in Python (Avro 1.12, "Binary Encoding": zigzag, then seven bits a byte, low first).

fastavro writes everything else. A record of nothing but longs is cheaper here: most are small, and
of the large ones (instants of machine time) the same few come again and again.
"""

import functools

REMEMBERED_MAX = 65_536
"""Numbers whose bytes are remembered."""


@functools.lru_cache(maxsize=REMEMBERED_MAX)
def long(value: int) -> bytes:
    """Return the bytes of a number of 64 bits. Raises OverflowError for a larger one."""
    if not -(2**63) <= value < 2**63:
        raise OverflowError(f"{value} does not fit a long")
    rest = (value << 1) ^ (value >> 63)
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)
