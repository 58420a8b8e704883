"""CBOR that strangers send (RFC 8949), decoded at a cost that goes with its length alone.

Rules of this file: no tag is interpreted, what it holds is all there is of it: a decimal fraction
of 130 kB would take seconds to make, as would a regular expression. In a payload that is not short
the keys of maps are text or bytes, whose hashes nobody foresees: of arrays thousands can be found
that collide.
"""

from typing import Any

import cbor2

TAGS = (*range(6), 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799)
"""The tags that cbor2 interprets."""
SHORT_BYTES_MAX = 4_096
_UNTAGGED = dict.fromkeys(TAGS, lambda value, _immutable: value)


def loads(data: bytes) -> Any:
    """Return what the bytes say. Raises the many kinds of exceptions that cbor2 does."""
    strict = len(data) > SHORT_BYTES_MAX
    return cbor2.loads(data, semantic_decoders=_UNTAGGED, strict_hashable_types=strict)
