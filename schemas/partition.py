"""Which partition a key is in: murmur2, as Java, aiokafka and librdkafka's `murmur2_random` do.

A reader that knows the partition of a key reads that one and leaves the others alone.
"""

_SEED = 0x9747B28C
_MULTIPLIER = 0x5BD1E995
_WORD = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """Return MurmurHash2 of `data` (32 bits, unsigned) under the seed that Kafka uses."""
    length = len(data)
    whole = length - length % 4
    value = _SEED ^ length
    for start in range(0, whole, 4):
        part = int.from_bytes(data[start : start + 4], "little") * _MULTIPLIER & _WORD
        part = (part ^ part >> 24) * _MULTIPLIER & _WORD
        value = value * _MULTIPLIER & _WORD ^ part
    if whole < length:
        value = (value ^ int.from_bytes(data[whole:], "little")) * _MULTIPLIER & _WORD
    value = (value ^ value >> 13) * _MULTIPLIER & _WORD
    return value ^ value >> 15


def partition_of(key: bytes, count: int) -> int:
    """Return the partition that a producer of ours puts `key` into, where there are `count`."""
    return (murmur2(key) & 0x7FFFFFFF) % count
