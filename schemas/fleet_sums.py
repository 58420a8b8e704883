"""What the partitions of the device table add up for a fleet."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FleetSums:
    """Sums over a fleet's devices in one partition of the device table.

    Presence is as it stands; `finished`, `failed`, `latencies` (one count per bucket) and
    `rotations` only grow.
    """

    partition: int
    connected: int = 0
    degraded: int = 0
    silent: int = 0
    gone: int = 0
    finished: int = 0
    failed: int = 0
    rotations: int = 0
    latencies: tuple[int, ...] = ()
