"""What a metric is: its exact name, type, labels and unit; the limits of labels."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["gauge", "counter", "histogram"]
Process = Literal["worker", "mqtt bridge", "coap bridge", "est door", "issuer", "supervisor"]

FLEETS_MAX = 200
"""Fleets that one process shows by name, unless it is told otherwise."""
OTHER_FLEETS = "_other"
"""Stands for the fleets beyond; no fleet's id begins so."""
DAYS = (0, 1, 3, 7, 14, 30, 60, 90, 180, 365)
"""Bounds of the distribution of certificates by the days that they still have."""

SIZES = (64, 256, 1024, 4096, 16384, 65536, 262144)
RECORDS = (1, 10, 100, 1_000, 10_000)
BATCH = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
STEP = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.001, 0.01, 0.1)
ORDER = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 7_200.0)
JUDGING = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25)
ANSWERING = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
"""Upper bounds of histograms, in the units of their metrics."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: `process` has it, `unit` is what its values count, `buckets` are upper bounds."""

    process: tuple[Process, ...]
    kind: Kind
    name: str
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
