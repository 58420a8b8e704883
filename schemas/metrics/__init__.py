"""The metrics of every process, by the names that a query uses.

A counter is exposed under its name as it stands here, with `_total` or without. No label holds a
device. Label `fleet` holds at most so many fleets per process (FLEETS_MAX by default); what lies
beyond is added up under OTHER_FLEETS. docs/metrics.md is drawn from these lists.
"""

from schemas.metrics import doors, services, worker
from schemas.metrics.metric import Metric

METRICS: tuple[Metric, ...] = (*worker.METRICS, *doors.METRICS, *services.METRICS)
"""All of them."""
