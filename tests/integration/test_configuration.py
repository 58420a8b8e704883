"""A changed file on the whole stack: each key has its effect, and a reload applies what is live."""

import os
import signal
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from aiocoap import Message
from aiocoap.numbers import GET, NON
from confluent_kafka.admin import AdminClient, ConfigResource
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bridges.mqtt.broker import release
from client.errors import FleetError
from client.fleets import Fleets
from client.local import supervisor
from pki.profile import issue_device
from schemas.states import Policy
from schemas.topics import BY_NAME, DEAD_LETTERS
from tests.helpers.stack import RunningStack, running_stack
from tests.helpers.wait import until

CHACHA = "TLS_CHACHA20_POLY1305_SHA256"
CHANGED = """\
iot:
  mqtt: {persistence: false, qos: 1, keepalive: 30}
  coap: {multicast: true, blockSize: 64}
  fleet: {maxDevices: 3, updateBatchSize: 4, healthCheckInterval: 120}
  security:
    tls: {certRotation: 20, cipherSuites: [TLS_CHACHA20_POLY1305_SHA256]}
  monitoring: {metricsInterval: 30, anomalyDetection: false, retentionDays: 7}
kafka: {prefix: plant-7.}
"""
AGAIN = CHANGED
for _old, _new in (
    ("keepalive: 30", "keepalive: 45"),
    ("maxDevices: 3", "maxDevices: 5"),
    ("certRotation: 20", "certRotation: 21"),
    ("anomalyDetection: false", "anomalyDetection: true"),
    ("retentionDays: 7", "retentionDays: 8"),
):
    AGAIN = AGAIN.replace(_old, _new)
DAY_MS = 86_400_000
WITHIN = 40.0
ASKED_SECONDS = 600


@dataclass(frozen=True)
class Configured:
    """A stack, its file, and a device's identity."""

    stack: RunningStack
    file: Path
    identity: Path
    at_ready: list[Policy] = field(default_factory=list)

    def context(self) -> ssl.SSLContext:
        """Return a device's TLS context."""
        ca = self.stack.layout.pki_dir / "service-ca" / "ca.pem"
        context = ssl.create_default_context(cafile=str(ca))
        context.load_cert_chain(self.identity)
        return context

    def log(self) -> str:
        """Return what `fleetcert up` has said."""
        return (self.stack.layout.data_dir / "supervisor.log").read_text()

    def reload(self, text: str) -> None:
        """Change the file and tell the stack."""
        self.file.write_text(text)
        os.kill(int(str(supervisor.status(self.stack.layout)["pid"])), signal.SIGHUP)

    def policies(self) -> list[Policy]:
        """Return the policy of each partition."""
        parts = range(self.stack.layout.partitions)
        return [self.stack.fleet.partition_row(one).policy for one in parts]

    def kept_ms(self) -> int:
        """Return for how long dead letters are kept."""
        cluster = self.stack.cluster
        admin, topic = AdminClient(cluster.settings()), cluster.named(DEAD_LETTERS)
        (found,) = admin.describe_configs(
            [ConfigResource(ConfigResource.Type.TOPIC, topic)]
        ).values()
        return int(found.result()["retention.ms"].value)


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Configured]:
    """A stack that was started with a changed file."""
    folder = tmp_path_factory.mktemp("configured")
    file, identity = folder / "fleetcert.yaml", folder / "device.pem"
    file.write_text(CHANGED)
    with running_stack(folder / "stack", config=file) as stack:
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        life = timedelta(days=90)
        der = issue_device(stack.authorities, "told-1", key.public_key(), "told-1", now, life)
        pem = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        identity.write_bytes(pem + private)
        found = Configured(stack, file, identity)
        found.at_ready.extend(found.policies())
        yield found


def test_a_stack_that_is_ready_goes_by_its_file(configured: Configured) -> None:
    """What holds from the start on is told before *ready*, in every partition: nothing follows."""
    told = configured.log()
    assert "fleets: maxDevices" in told.partition("\nready")[0]
    assert len(configured.at_ready) == configured.stack.layout.partitions
    for policy in configured.at_ready:
        assert (policy.days_before_expiry, policy.silent_after_ms) == (20, 360_000)
        assert not policy.anomaly_detection
    assert "rdkafka" not in told


def test_the_broker_grants_what_the_file_says(configured: Configured) -> None:
    """MQTT 5 tells a device the highest QoS and the keep-alive that it is granted."""
    told: list[tuple[int, int]] = []
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="told-1", protocol=paho.MQTTv5)

    def connected(*answer: object) -> None:
        granted: Any = answer[4]
        told.append((granted.MaximumQoS, getattr(granted, "ServerKeepAlive", ASKED_SECONDS)))

    client.on_connect = connected
    client.username_pw_set("told-1")
    client.tls_set_context(configured.context())
    client.connect("localhost", configured.stack.layout.device_port, keepalive=ASKED_SECONDS)
    client.loop_start()
    try:
        until(lambda: told, within=WITHIN, describe="the device is connected")
    finally:
        client.disconnect()
        client.loop_stop()
    longest = release.keepalive_seconds_max(release.installed(), 30)
    assert told[0] == (1, longest or ASKED_SECONDS)  # unlimited on a release with that fault
    said = (configured.stack.layout.broker_dir / "mosquitto.conf").read_text()
    assert "persistence false" in said.splitlines()


@pytest.mark.parametrize("door", ["mqtt", "coap", "est"])
def test_only_the_suites_of_the_file_are_spoken(configured: Configured, door: str) -> None:
    """A client that prefers another suite gets the one that is allowed, at each door over TCP."""
    layout = configured.stack.layout
    port = {"mqtt": layout.device_port, "coap": layout.coap_port, "est": layout.est_port}[door]
    with (
        socket.create_connection(("localhost", port), timeout=10) as plain,
        configured.context().wrap_socket(plain, server_hostname="localhost") as session,
    ):
        suite, version, _ = session.cipher() or ("", "", 0)
    assert (suite, version) == (CHACHA, "TLSv1.3")


def test_discovery_by_multicast_is_answered(configured: Configured) -> None:
    """All CoAP Nodes, on the loopback: there the bridge listens."""
    question = Message(code=GET, uri_path=(".well-known", "core"), _mtype=NON, _mid=7)
    question.token = b"m"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        loopback = socket.inet_aton("127.0.0.1")
        probe.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, loopback)
        probe.settimeout(20)
        port = configured.stack.layout.coap_plain_port
        probe.sendto(question.encode(), ("224.0.1.187", port))
        answer, _ = probe.recvfrom(65_536)
    assert b"coaps+tcp://" in answer


def test_every_name_on_kafka_begins_with_the_prefix(configured: Configured) -> None:
    """Topics and groups: a Kafka that others use holds nothing of ours under another name."""
    stack = configured.stack
    admin = AdminClient(stack.cluster.settings())
    ours = {f"plant-7.{one}" for one in BY_NAME}
    assert {one for one in admin.list_topics(timeout=WITHIN).topics if one[0] != "_"} == ours
    groups = {"plant-7.fleetcert-devices", "plant-7.mqtt-bridges", "plant-7.issuer"}

    def listed() -> set[str]:
        found = admin.list_consumer_groups(request_timeout=WITHIN).result().valid
        return {one.group_id for one in found}

    until(lambda: listed() >= groups, within=WITHIN, describe=lambda: str(listed()))
    assert {one for one in listed() if not one.startswith("plant-7.")} == set()
    (status,) = stack.json("status")
    assert set(status["lag"]) == {"0", "1"}


def test_devices_and_fleets_go_by_the_file_and_a_reload_applies_what_is_live(
    configured: Configured,
) -> None:
    """At the start and at SIGHUP; what must start anew is named; a wrong file changes nothing."""
    stack = configured.stack
    assert configured.kept_ms() == 7 * DAY_MS
    with Fleets(stack.cluster) as fleets:
        with pytest.raises(FleetError, match="3"):
            fleets.create("many", devices=[f"d-{number}" for number in range(4)])
        fleets.create("first")
        config = fleets.fleet("first").config
        assert (config.max_devices, config.update_policy.batch_size) == (3, 4)
        assert config.cert_rotation.days_before_expiry == 20
        watch = config.monitoring
        assert (watch.health_check_interval_ms, watch.metrics_interval_ms) == (120_000, 30_000)

        configured.reload(AGAIN)
        until(lambda: "reloaded:" in configured.log(), within=WITHIN, describe=configured.log)
        for policy in configured.policies():
            assert (policy.days_before_expiry, policy.anomaly_detection) == (21, True)
        assert configured.kept_ms() == 8 * DAY_MS
        fleets.create("second")
        assert fleets.fleet("second").config.max_devices == 5
    assert "iot.mqtt.keepalive: 30 -> 45: waits for a restart of mosquitto" in configured.log()

    configured.reload("iot: {mqtt: {prot: 1}}")
    until(lambda: "did you mean port" in configured.log(), within=WITHIN, describe=configured.log)
    assert stack.all_run()
    assert [one.days_before_expiry for one in configured.policies()] == [21, 21]
    assert all(one["identical"] for one in stack.json("replay", "--verify"))
