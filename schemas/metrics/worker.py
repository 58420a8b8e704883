"""The metrics of a worker. A fleet's come from the worker that has the fleet's row."""

from schemas.metrics import metric
from schemas.metrics.metric import Metric, Process

_WORKER: tuple[Process, ...] = ("worker",)
_FLEET, _PARTITION, _WHERE = ("fleet",), ("partition",), ("program", "partition")

DEVICES_REGISTERED = Metric(
    _WORKER, "gauge", "devices_registered", "devices", "Registered devices.", _PARTITION
)
DEVICES_CONNECTED = Metric(
    _WORKER, "gauge", "devices_connected", "devices", "Devices with an open session.", _PARTITION
)
DEVICES_PENDING = Metric(
    _WORKER, "gauge", "devices_pending", "devices", "Devices that wait for approval.", _PARTITION
)
ROTATIONS = Metric(
    _WORKER,
    "gauge",
    "stream_rotations",
    "devices",
    "Devices whose rotation is in this state; idle ones are not counted.",
    ("partition", "state"),
)
ALERTS_OPEN = Metric(
    _WORKER, "gauge", "stream_alerts_open", "alerts", "Open alerts about devices.", _PARTITION
)

FLEET_DEVICES_TOTAL = Metric(
    _WORKER, "gauge", "fleet_devices_total", "devices", "Members of the fleet.", _FLEET
)
FLEET_DEVICES_CONNECTED = Metric(
    _WORKER,
    "gauge",
    "fleet_devices_connected",
    "devices",
    "Members whose health is connected; told at most once per metricsInterval.",
    _FLEET,
)
FLEET_DEVICES_HEALTH = Metric(
    _WORKER,
    "gauge",
    "fleet_devices_health",
    "devices",
    "Members by health: connected, degraded, silent, gone.",
    ("fleet", "health"),
)
FLEET_CERT_DAYS_AVG = Metric(
    _WORKER,
    "gauge",
    "fleet_cert_days_avg",
    "days",
    "Mean of the days until the members' certificates end.",
    _FLEET,
)
CERT_DAYS_REMAINING = Metric(
    _WORKER,
    "gauge",
    "cert_days_remaining",
    "days",
    "Days until the first of the members' certificates ends; negative once it has.",
    _FLEET,
)
CERT_DAYS_DISTRIBUTION = Metric(
    _WORKER,
    "gauge",
    "fleet_cert_days_distribution",
    "devices",
    "Members whose certificate ends within so many days of today's midnight (UTC).",
    ("fleet", "within_days"),
)
FLEET_CERT_DAYS_BEFORE_EXPIRY = Metric(
    _WORKER,
    "gauge",
    "fleet_cert_days_before_expiry",
    "days",
    "certRotation.daysBeforeExpiry of the fleet; zero where its rotation is not enabled.",
    _FLEET,
)
FLEET_CERT_ROTATIONS = Metric(
    _WORKER,
    "gauge",
    "fleet_cert_rotations",
    "rotations",
    "Rotations that the fleet's devices have completed.",
    _FLEET,
)
FLEET_ERROR_RATE = Metric(
    _WORKER,
    "gauge",
    "fleet_error_rate",
    "ratio",
    "Failed / finished since the fleet's window began (5 min); 0 below five results.",
    _FLEET,
)
FLEET_ERROR_RATE_MAX = Metric(
    _WORKER,
    "gauge",
    "fleet_error_rate_max",
    "ratio",
    "monitoring.alertThresholds.errorRate of the fleet.",
    _FLEET,
)
FLEET_LATENCY = Metric(
    _WORKER,
    "gauge",
    "fleet_latency_seconds",
    "seconds",
    "From command to reply, 95th percentile since the fleet's window began; 0 below five replies.",
    _FLEET,
)
FLEET_RESULTS_FINISHED = Metric(
    _WORKER,
    "counter",
    "fleet_results_finished_total",
    "results",
    "Results of the members: reports and answers to commands.",
    _FLEET,
)
FLEET_RESULTS_FAILED = Metric(
    _WORKER, "counter", "fleet_results_failed_total", "results", "Those that failed.", _FLEET
)
FLEET_DEVICES_IN_WORK = Metric(
    _WORKER,
    "gauge",
    "fleet_devices_in_work",
    "devices",
    "Members that have an order of a campaign.",
    _FLEET,
)
FLEET_CAMPAIGNS = Metric(
    _WORKER,
    "gauge",
    "fleet_campaigns",
    "campaigns",
    "Campaigns that have not ended, by state: planned, running, gated, paused, halted, ending.",
    ("fleet", "state"),
)
FLEET_UPDATE_DURATION = Metric(
    _WORKER,
    "histogram",
    "fleet_update_duration",
    "seconds",
    "From a device's order to its end, rotations and updates.",
    ("fleet", "outcome"),
    metric.ORDER,
)
FLEET_ALERTS = Metric(
    _WORKER,
    "counter",
    "fleet_alerts_total",
    "alerts",
    "Alerts raised; fleet is empty where the subject is in none.",
    ("fleet", "rule", "severity"),
)
FLEETS_HIDDEN = Metric(
    _WORKER,
    "gauge",
    "fleet_labels_hidden",
    "fleets",
    "Fleets beyond the limit of label fleet, added up as _other.",
)

APPLIED = Metric(
    _WORKER, "counter", "stream_events_applied_total", "events", "Events applied.", _WHERE
)
SKIPPED = Metric(
    _WORKER,
    "counter",
    "stream_events_skipped_total",
    "events",
    "Events that had been applied before: they follow a takeover.",
    _WHERE,
)
SET_ASIDE = Metric(
    _WORKER,
    "gauge",
    "stream_set_aside",
    "records",
    "Records and wakings whose step raised: each one is a bug.",
    _WHERE,
)
OUTPUTS = Metric(
    _WORKER, "counter", "stream_outputs_total", "records", "Records published.", ("topic",)
)
DECISIONS = Metric(
    _WORKER,
    "counter",
    "stream_decisions_total",
    "decisions",
    "Decisions, refusals among them (name EventRefused).",
    ("name", "reason", "severity"),
)
DEAD_LETTERS = Metric(
    _WORKER,
    "counter",
    "stream_dead_letters_total",
    "records",
    "Records that were not understood.",
    ("reason",),
)
BATCH_RECORDS = Metric(
    _WORKER,
    "histogram",
    "stream_batch_records",
    "records",
    "Records of one batch.",
    ("program",),
    metric.RECORDS,
)
BATCH_SECONDS = Metric(
    _WORKER,
    "histogram",
    "stream_batch_seconds",
    "seconds",
    "From the start of a batch to its rows on the disk.",
    ("program",),
    metric.BATCH,
)
STEP_SECONDS = Metric(
    _WORKER,
    "histogram",
    "stream_step_seconds",
    "seconds",
    "One step: the fold of a batch, divided by its records.",
    ("program",),
    metric.STEP,
)
OPENING_SECONDS = Metric(
    _WORKER,
    "gauge",
    "stream_opening_seconds",
    "seconds",
    "How long the partition's recovery took.",
    _WHERE,
)
APPLIED_OFFSET = Metric(
    _WORKER, "gauge", "stream_applied_offset", "offset", "Last offset applied.", _WHERE
)
ROWS = Metric(_WORKER, "gauge", "stream_rows", "rows", "Rows of the partition.", _WHERE)
MACHINE_TIME = Metric(
    _WORKER, "gauge", "stream_machine_time_seconds", "Unix time", "The machine's time.", _WHERE
)
LAG_SECONDS = Metric(
    _WORKER,
    "gauge",
    "stream_lag_seconds",
    "seconds",
    "How far the machine's time is behind the clock: ticks go through the log like all else. Far "
    "below zero it stands still, until the clock has come up to it.",
    _WHERE,
)
LAG_RECORDS = Metric(
    _WORKER,
    "gauge",
    "stream_lag_records",
    "records",
    "Records between the last offset applied and the log's end as last heard of.",
    _WHERE,
)
DEADLINES = Metric(
    _WORKER, "gauge", "stream_deadlines", "rows", "Rows that wait for an instant.", _WHERE
)
DEADLINES_LATE = Metric(
    _WORKER,
    "gauge",
    "stream_deadlines_late_seconds",
    "seconds",
    "How long the first deadline is due: more than a tick wakes wait.",
    _WHERE,
)
STANDSTILL = Metric(
    _WORKER,
    "gauge",
    "stream_standstill_seconds",
    "seconds",
    "How long a partition has not moved while Kafka answers; the watchdog ends the worker.",
    ("program",),
)

VOLUME_FREE = Metric(
    _WORKER,
    "gauge",
    "stream_volume_free_bytes",
    "bytes",
    "Bytes that are free on the volume of the rows; a worker ends below worker.roomMebibytes.",
)

METRICS: tuple[Metric, ...] = tuple(one for one in list(globals().values()) if type(one) is Metric)
"""All of them, in the order of this file."""
