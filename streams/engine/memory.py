"""Python's collector of cycles, made rare.

It looks at the young objects after 700 new ones, and at all of them when a quarter is new. Rows,
events and outputs hold no cycles: counting references frees them. With Python's defaults a fifth
of a worker's time went into looking (benchmarks/README.md).
"""

import gc

NEW_OBJECTS = 100_000
"""New objects before the youngest are looked at; those of about three thousand events."""
YOUNG_ROUNDS, MIDDLE_ROUNDS = 50, 100


def collect_rarely() -> None:
    """Call once, at the start of a process; what is imported by then is never looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, YOUNG_ROUNDS, MIDDLE_ROUNDS)
