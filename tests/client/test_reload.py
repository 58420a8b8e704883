"""What a changed configuration does to a running stack, without one."""

from client.applied import defaults_of, policy_of
from client.local.reload import changes, with_live
from configuration.model import Configuration
from schemas.states import Policy
from streams.core import fleet_config

CHANGED = Configuration.model_validate(
    {
        "iot": {
            "mqtt": {"port": 8885, "tls": {"cert": "c", "key": "-----BEGIN K", "ca": ["a"]}},
            "fleet": {"maxDevices": 7, "updateBatchSize": 8, "healthCheckInterval": 9},
            "security": {
                "tls": {"certRotation": 10},
                "provisioning": {"ca": ["maker.pem"], "justInTime": "approval"},
            },
            "monitoring": {"metricsInterval": 11, "anomalyDetection": False},
        }
    }
)


def test_the_configuration_becomes_policy_and_defaults() -> None:
    """In the machines' own names and milliseconds; the rest of a policy stays."""
    policy = policy_of(CHANGED, Policy(attempts_max=9))
    assert (policy.days_before_expiry, policy.silent_after_ms) == (10, 27_000)
    assert (policy.anomaly_detection, policy.attempts_max) == (False, 9)
    assert policy.just_in_time == "approval"
    inherited = fleet_config.resolved(defaults_of(CHANGED))
    assert (inherited.max_devices, inherited.update_policy.batch_size) == (7, 8)
    assert inherited.cert_rotation.days_before_expiry == 10
    assert inherited.monitoring.health_check_interval_ms == 9_000
    assert inherited.monitoring.metrics_interval_ms == 11_000


def test_the_defaults_change_nothing() -> None:
    """A stack without a configuration records nothing."""
    assert policy_of(Configuration(), Policy()) == Policy()
    assert fleet_config.resolved(defaults_of(Configuration())) == fleet_config.resolved("{}")


def test_a_change_says_whether_it_is_live_and_what_must_start_anew() -> None:
    """Each key with what it was and is; a private key is not repeated."""
    found = changes(Configuration(), CHANGED)
    assert "iot.fleet.maxDevices: 1000 -> 7" in found.live
    assert "iot.monitoring.anomalyDetection: true -> false" in found.live
    waits = "waits for a restart of mosquitto, the MQTT bridges"
    assert f"iot.mqtt.port: 8883 -> 8885: {waits}" in found.waiting
    assert any(one.startswith("iot.mqtt.tls.key: nothing -> (not shown)") for one in found.waiting)
    assert "iot.security.provisioning.justInTime: off -> approval" in found.live
    assert len(found.live) == 7


def test_what_waits_for_a_restart_is_told_until_then() -> None:
    """Only the live keys hold after a reload."""
    held = with_live(Configuration(), CHANGED)
    after = changes(held, CHANGED)
    assert after.live == ()
    assert len(after.waiting) == 5
