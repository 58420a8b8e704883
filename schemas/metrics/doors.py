"""The metrics of the doors: both bridges and the renewal door over HTTPS."""

from schemas.metrics import metric
from schemas.metrics.metric import Metric, Process

_MQTT: tuple[Process, ...] = ("mqtt bridge",)
_COAP: tuple[Process, ...] = ("coap bridge",)
_EST: tuple[Process, ...] = ("est door",)
_RENEWING: tuple[Process, ...] = ("coap bridge", "est door")
_BRIDGES: tuple[Process, ...] = ("mqtt bridge", "coap bridge", "est door")

MQTT_MESSAGES_RECEIVED = Metric(
    _MQTT, "counter", "mqtt_messages_received", "messages", "Messages from devices."
)
MQTT_MESSAGES_SENT = Metric(
    _MQTT, "counter", "mqtt_messages_sent", "messages", "Messages to devices."
)
MQTT_MESSAGE_SIZE = Metric(
    _MQTT,
    "histogram",
    "mqtt_message_size",
    "bytes",
    "Payloads of messages from devices.",
    buckets=metric.SIZES,
)
MQTT_CONNECTION_ERRORS = Metric(
    _MQTT,
    "gauge",
    "mqtt_connection_errors",
    "connections",
    "Connections to the broker that were lost or refused since the start.",
)
MQTT_BUCKETS_SERVED = Metric(
    _MQTT, "gauge", "mqtt_buckets_served", "buckets", "Buckets whose session with the broker is up."
)
MQTT_BUCKETS = Metric(_MQTT, "gauge", "mqtt_buckets", "buckets", "Buckets of all bridges.")
MQTT_HINTS = Metric(
    _MQTT, "counter", "mqtt_hints_total", "messages", "Wills and births: read by nobody.", ("kind",)
)
MQTT_UNTOLD = Metric(
    _MQTT,
    "counter",
    "mqtt_untold_total",
    "messages",
    "Acknowledgements that were given up: those devices send again.",
)
COAP_MESSAGES_RECEIVED = Metric(
    _COAP, "counter", "coap_messages_received_total", "messages", "Messages from devices."
)
COAP_MESSAGES_SENT = Metric(
    _COAP, "counter", "coap_messages_sent_total", "messages", "Commands handed to sessions."
)
COAP_MESSAGE_SIZE = Metric(
    _COAP,
    "histogram",
    "coap_message_size",
    "bytes",
    "Payloads of messages from devices.",
    buckets=metric.SIZES,
)
COAP_SESSIONS = Metric(
    _COAP, "gauge", "coap_sessions", "sessions", "Open sessions by transport.", ("transport",)
)
BRIDGE_REFUSED = Metric(
    _BRIDGES, "counter", "bridge_refused_total", "messages", "Refusals by reason.", ("reason",)
)
BRIDGE_WAITING = Metric(_BRIDGES, "gauge", "bridge_waiting_bytes", "bytes", "What waits for Kafka.")
BRIDGE_KAFKA_SILENT = Metric(
    _BRIDGES,
    "gauge",
    "bridge_kafka_silent_seconds",
    "seconds",
    "How long Kafka has acknowledged nothing while something waits for it.",
)
EST_REQUESTS = Metric(
    _EST, "counter", "est_requests_total", "requests", "Requests.", ("operation", "status")
)
EST_ENROLMENTS = Metric(
    _EST,
    "counter",
    "est_enrolments_total",
    "enrolments",
    "First certificates by what became of them: issued, pending, or the reason of a refusal.",
    ("outcome",),
)
EST_RENEWALS = Metric(
    _RENEWING,
    "counter",
    "est_renewals_total",
    "renewals",
    "Renewals by what became of them: issued, pending, or the reason of a refusal.",
    ("outcome",),
)
EST_RENEWAL_SECONDS = Metric(
    _RENEWING,
    "histogram",
    "est_renewal_seconds",
    "seconds",
    "From the CSR to its answer.",
    buckets=metric.ANSWERING,
)

METRICS: tuple[Metric, ...] = tuple(one for one in list(globals().values()) if type(one) is Metric)
"""All of them, in the order of this file."""
