"""One model: what each process goes by without any configuration is the model's default."""

import datetime
from pathlib import Path

import pytest

import bridges.__main__ as bridges_program
import pki.__main__ as pki_program
import streams.__main__ as streams_program
from bridges.coap import process as coap
from bridges.coap.listeners import Settings as CoapSettings
from bridges.est import process as est
from bridges.est.server import Settings as EstSettings
from bridges.run import GroupSettings
from client.local.layout import Layout
from client.local.setup import limits
from client.local.topics import RETENTION_DAYS
from configuration import keys
from configuration.cluster import Cluster
from configuration.iot import Coap, Est
from configuration.load import load
from configuration.model import Configuration
from configuration.source import InvalidConfiguration
from pki import authority, issuer, ledger
from schemas.states import Policy
from schemas.topics import BY_NAME, DEAD_LETTERS
from streams.app import Settings
from streams.core import fleet_config

ROOT = Path(__file__).parents[2]
TABLES = (
    streams_program.OPTIONS,
    bridges_program.MQTT,
    bridges_program.COAP,
    bridges_program.EST,
    pki_program.OPTIONS,
)


@pytest.mark.parametrize("table", TABLES)
def test_every_option_of_a_process_stands_for_a_key(table: dict[str, str]) -> None:
    """No process takes what is not in the model."""
    assert set(table.values()) <= set(keys.every())


def test_a_worker_starts_by_the_model() -> None:
    """streams.app.Settings and the model agree."""
    assert streams_program._settings(Configuration()) == Settings()


def test_an_issuer_starts_by_the_model() -> None:
    """The issuer's policy and limits and the model agree."""
    made = pki_program._settings(Configuration())
    assert (made.policy, made.limits) == (issuer.Policy(), ledger.Limits())
    assert made.session_timeout_seconds == 6.0


def test_the_bridges_start_by_the_model() -> None:
    """Group, buckets and heartbeat; the CoAP bridge's limits."""
    own = Configuration().iot.mqtt
    usual = GroupSettings(Cluster(""))
    assert (own.group, own.buckets) == (usual.group, usual.buckets)
    assert own.heartbeat_interval == usual.heartbeat_seconds
    path = Path("/x")
    tls = {"cert": "/x", "key": "/x", "ca": ["/x"]}
    said = {"tls": tls, "plainPort": 0, "renewalPort": 0}
    made = coap.settings(Coap.model_validate(said), path)
    assert made == CoapSettings(path, path, path, ca_certificates=(path,))
    trusting = coap.settings(Coap.model_validate(said), path, provisioning_ca=["/maker.pem"])
    assert trusting.provisioning_ca == Path("/maker.pem")
    door = est.settings(Est.model_validate({"tls": tls}), path)
    assert door == EstSettings(path, path, path, (path,))


def test_the_local_stack_is_the_models() -> None:
    """Layout's defaults are for tests that need no configuration, and the same."""
    assert Layout.of(Configuration()) == Layout()


def test_a_fleet_inherits_what_the_model_says() -> None:
    """Seconds here are milliseconds there; defaults and limits agree."""
    iot, names = Configuration().iot, keys.every()
    pairs = {
        "maxDevices": ("iot.fleet.maxDevices", 1, iot.fleet.max_devices),
        "updatePolicy.batchSize": ("iot.fleet.updateBatchSize", 1, iot.fleet.update_batch_size),
        "monitoring.healthCheckInterval": (
            "iot.fleet.healthCheckInterval", 1000, iot.fleet.health_check_interval,
        ),
        "certRotation.daysBeforeExpiry": (
            "iot.security.tls.certRotation", 1, iot.security.tls.cert_rotation,
        ),
        "monitoring.metricsInterval": (
            "iot.monitoring.metricsInterval", 1000, iot.monitoring.metrics_interval,
        ),
    }  # fmt: skip
    for path, (name, scale, value) in pairs.items():
        field = fleet_config.FIELDS[path]
        assert value * scale == field.default
        limits_told = f"{field.least / scale:,.0f} to {field.most / scale:,.0f}"
        assert limits_told in names[name].allowed, name
    policy = Policy()
    assert policy.days_before_expiry == iot.security.tls.cert_rotation
    assert policy.silent_after_ms == 3 * 1000 * iot.fleet.health_check_interval


def test_dead_letters_are_kept_for_as_long_as_the_model_says() -> None:
    """The topic's own retention is the default's."""
    days = Configuration().iot.monitoring.retention_days
    assert days == RETENTION_DAYS
    assert BY_NAME[DEAD_LETTERS].config["retention.ms"] == str(days * 86_400_000)


def test_the_broker_is_told_what_the_configuration_says() -> None:
    """Each of its keys reaches the broker's settings."""
    own = {"persistence": False, "qos": 2, "keepalive": 30, "maxConnections": 7}
    own |= {"messagesPerSecond": 5, "burst": 6, "buckets": 3}
    told = limits(Configuration.model_validate({"iot": {"mqtt": own}}))
    assert told["persistence"] is False
    assert (told["device_qos_max"], told["max_device_connections"]) == (2, 7)
    assert (told["device_rate_max"], told["device_burst_max"], told["buckets"]) == (5, 6, 3)
    assert told["keepalive_seconds_max"] in (0, 30)
    assert told["cipher_suites"][0] == "TLS_AES_256_GCM_SHA384"


@pytest.mark.parametrize(
    ("said", "answered"),
    [
        ({"multicast": False}, ((), "")),
        ({"plainPort": 0}, ((), "")),
        ({}, (("lo",), "::")),
        ({"interfaces": ["lo"], "host": "0.0.0.0"}, (("lo",), "::")),
    ],
)
def test_multicast_is_answered_where_the_bridge_is(
    said: dict[str, object], answered: tuple[tuple[str, ...], str]
) -> None:
    """On the loopback alone where the bridge listens there; nowhere where it is switched off."""
    tls = {"cert": "/x", "key": "/x", "ca": ["/x"]}
    made = coap.settings(Coap.model_validate({"tls": tls, **said}), Path("/x"))
    assert (made.multicast, made.plain_host) == answered


def test_an_interface_that_is_not_there_is_told() -> None:
    """The message names those that are."""
    with pytest.raises(InvalidConfiguration, match=r"has no nowhere0, it has .*lo"):
        coap.interfaces(Coap.model_validate({"interfaces": ["nowhere0"]}))


def test_dtls_block_size_and_pem_text_reach_the_coap_bridge(tmp_path: Path) -> None:
    """DTLS 1.2 is there by name; text becomes files that only we may read."""
    tls = {"cert": "-----BEGIN c", "key": "-----BEGIN k", "ca": ["-----BEGIN a", "-----BEGIN b"]}
    said = {"tls": tls, "dtls": ["DTLSv1.2"], "blockSize": 64, "plainPort": 0}
    made = coap.settings(Coap.model_validate(said), tmp_path)
    assert (made.dtls, made.block_size, made.exponent) == (frozenset({"1.2"}), 64, 2)
    assert made.key.read_text() == "-----BEGIN k"
    assert made.key.stat().st_mode & 0o077 == 0
    assert made.device_ca.read_text() == "-----BEGIN a\n-----BEGIN b"


def test_the_example_file_is_the_defaults(tmp_path: Path) -> None:
    """deploy/fleetcert.yaml, read from where it would be used, changes nothing."""
    text = (ROOT / "deploy" / "fleetcert.yaml").read_text()
    (tmp_path / "fleetcert.yaml").write_text(text.replace("var/", f"{Path.cwd()}/var/"))
    loaded = load(tmp_path / "fleetcert.yaml", {})
    here = f"{Path.cwd()}/"
    for key in keys.every().values():
        value = keys.get(loaded.configuration, key)
        plain = value.removeprefix(here) if isinstance(value, str) else value
        assert plain == key.default, key.name
        assert key.default is None or loaded.origin(key) != "default", key.name


def test_the_issuer_trusts_the_provisioning_cas_that_are_named(tmp_path: Path) -> None:
    """None by default; a file, or the text itself; what is neither is told with its key."""
    made = authority.create(tmp_path / "maker", now=datetime.datetime.now(datetime.UTC))
    file = tmp_path / "maker" / "device-ca" / "ca.pem"
    for said in (str(file), file.read_text()):
        own = {"iot": {"security": {"provisioning": {"ca": [said]}}}}
        policy = pki_program._settings(Configuration.model_validate(own)).policy
        assert policy.provisioning_anchors == (made.device.certificate,)
    own = {"iot": {"security": {"provisioning": {"ca": [str(tmp_path / "gone.pem")]}}}}
    with pytest.raises(InvalidConfiguration, match=r"iot\.security\.provisioning\.ca"):
        pki_program._settings(Configuration.model_validate(own))


def test_a_bare_off_is_the_word() -> None:
    """YAML 1.1 reads it as false."""
    own = {"iot": {"security": {"provisioning": {"justInTime": False}}}}
    assert Configuration.model_validate(own).iot.security.provisioning.just_in_time == "off"
