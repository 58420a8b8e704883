"""The row of all fleets' queries, which stands beside the devices in each of their partitions."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FleetQuery:
    """A fleet, and the query over tags by which it takes devices."""

    fleet_id: str
    query: str


@dataclass(frozen=True, slots=True)
class FleetQueriesRow:
    """The queries of all fleets, in the order of their ids; one row per partition.

    Where a query has changed, all devices behind `cursor` are still to be asked.
    """

    applied_offset: int
    next_due_at: int
    queries: tuple[FleetQuery, ...]
    cursor: bytes = b""


QUERIES_KEY = b"@queries"
"""The key of the FleetQueriesRow."""
