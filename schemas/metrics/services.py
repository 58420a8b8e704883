"""The metrics of the issuer and of the local stack's supervisor."""

from schemas.metrics import metric
from schemas.metrics.metric import Metric, Process

_ISSUER: tuple[Process, ...] = ("issuer",)
_STACK: tuple[Process, ...] = ("supervisor",)

ISSUER_SIGNED = Metric(
    _ISSUER, "counter", "issuer_signed_total", "certificates", "Certificates issued."
)
ISSUER_REFUSED = Metric(
    _ISSUER, "counter", "issuer_refused_total", "requests", "Requests refused.", ("reason",)
)
ISSUER_QUEUE = Metric(_ISSUER, "gauge", "issuer_queue", "requests", "Requests that wait.")
ISSUER_ACTIVE = Metric(_ISSUER, "gauge", "issuer_active", "flag", "1 answers, 0 stands by.")
ISSUER_SECONDS = Metric(
    _ISSUER,
    "histogram",
    "issuer_seconds",
    "seconds",
    "Judging and signing one request.",
    buckets=metric.JUDGING,
)
ISSUER_ANSWER_SECONDS = Metric(
    _ISSUER,
    "histogram",
    "issuer_answer_seconds",
    "seconds",
    "From the request's broker time until Kafka has the answer.",
    buckets=metric.ANSWERING,
)
ISSUER_CRL_ENTRIES = Metric(
    _ISSUER, "gauge", "issuer_crl_entries", "certificates", "Entries of the revocation list."
)
ISSUER_CRL_NEXT_UPDATE = Metric(
    _ISSUER,
    "gauge",
    "issuer_crl_next_update_seconds",
    "Unix time",
    "nextUpdate of the revocation list: from then on it locks every device out.",
)

STACK_PROCESS_RUNNING = Metric(
    _STACK, "gauge", "stack_process_running", "flag", "1 where it is ready.", ("process",)
)
STACK_RESTARTS = Metric(
    _STACK, "gauge", "stack_restarts", "ends", "Ends that nobody asked for.", ("process",)
)
STACK_VOLUME_FULL = Metric(
    _STACK,
    "gauge",
    "stack_volume_full",
    "flag",
    "1 where it stands for want of room.",
    ("process",),
)
STACK_VOLUME_FREE = Metric(
    _STACK, "gauge", "stack_volume_free_bytes", "bytes", "Free on its volume.", ("process",)
)

METRICS: tuple[Metric, ...] = tuple(one for one in list(globals().values()) if type(one) is Metric)
"""All of them, in the order of this file."""
