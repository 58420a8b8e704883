"""Reading the configuration: what is accepted, how a mistake is told, which source wins."""

from pathlib import Path
from typing import Any

import pytest

from configuration import keys
from configuration.load import DEFAULT, Loaded, load, written
from configuration.model import Configuration
from configuration.source import FILE_BYTES_MAX, InvalidConfiguration

DESIGNED = """\
iot:
  mqtt: {port: 8883, persistence: true, qos: 1, keepalive: 60}
  coap: {port: 5684, multicast: true, blockSize: 1024}
  fleet: {maxDevices: 1000, updateBatchSize: 10, healthCheckInterval: 300}
  security:
    tls: {minVersion: TLSv1.3, cipherSuites: [TLS_AES_256_GCM_SHA384, TLS_CHACHA20_POLY1305_SHA256], certRotation: 30}
  monitoring: {metricsInterval: 60, anomalyDetection: true, retentionDays: 90}
"""  # noqa: E501 - as users write it


def reading(folder: Path, text: str, environment: dict[str, str] | None = None) -> Loaded:
    """Read a text as a file."""
    file = folder / "fleetcert.yaml"
    file.write_text(text)
    return load(file, environment or {})


def told(folder: Path, text: str, environment: dict[str, str] | None = None) -> list[str]:
    """Return what is said of a text that is refused, without its folder."""
    with pytest.raises(InvalidConfiguration) as refused:
        reading(folder, text, environment)
    return [str(one).replace(f"{folder}/", "") for one in refused.value.faults]


def test_what_users_write_is_accepted_and_is_the_default(tmp_path: Path) -> None:
    """The YAML of the design, to the letter, gives the defaults."""
    assert reading(tmp_path, DESIGNED).configuration == Configuration()


def test_an_adapter_has_host_port_client_id_and_tls(tmp_path: Path) -> None:
    """Both adapters take them; a path begins beside the file, PEM text stays as it is."""
    tls = "{cert: a.pem, key: /k.pem, ca: [b.pem, '-----BEGIN X'], rejectUnauthorized: true}"
    text = f"""\
iot:
  mqtt: {{host: h, port: 1, clientId: c, tls: {tls}}}
  coap: {{host: h, port: 1, clientId: c, tls: {tls}}}
"""
    iot = reading(tmp_path, text).configuration.iot
    for one in (iot.mqtt, iot.coap):
        assert (one.host, one.port, one.client_id) == ("h", 1, "c")
        assert one.tls.cert == str(tmp_path / "a.pem")
        assert one.tls.private_key == "/k.pem"
        assert one.tls.ca == [str(tmp_path / "b.pem"), "-----BEGIN X"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("iot:\n  mqtt: {port: 70000}", "2:16: iot.mqtt.port: found 70000, allowed is a whole"),
        ("iot:\n  mqtt: {port: '1'}", "2:16: iot.mqtt.port: found '1', allowed"),
        ("iot: {mqtt: {qos: true}}", "1:19: iot.mqtt.qos: found true, allowed is 1 or 2"),
        ("iot: {mqtt: {qos: 0}}", "at 0 what a device says could be lost without a word"),
        ("iot: {mqtt: {keepalive: 5}}", "allowed is a whole number from 10 to 600 seconds"),
        ("iot: {fleet: {maxDevices: 1.5}}", "from 1 to 10,000,000 devices"),
        ("iot:\n  mqtt:\n    prot: 1", "3:5: iot.mqtt.prot: unknown key; did you mean port?"),
        ("iot: {blockSize: 1}", "1:7: iot.blockSize: unknown key; did you mean iot.coap.blockSize"),
        ("mqtt: {}", "1:1: mqtt: unknown key; did you mean iot.mqtt?"),
        ("zzz: 1", "unknown key; known here: iot, issuer, kafka, metrics, stack, worker"),
        ("iot: {mqtt: {port: 1, port: 2}}", "1:23: iot.mqtt.port: stands there twice"),
        ("iot: {coap: {dtls: [DTLSv1.3, x]}}", "1:31: iot.coap.dtls[1]: found 'x', allowed"),
        ("iot: {coap: {tls: {rejectUnauthorized: false}}}", "put its CA into `ca`, and remove"),
        ("iot: {coap: {tls: {cert: a}}}", "iot.coap.tls: key, ca missing: TLS is mutual"),
        ("iot: {security: {tls: {minVersion: TLSv1.2}}}", "iot.coap.dtls: [DTLSv1.3, DTLSv1.2]"),
        ("iot: {security: {tls: {cipherSuites: [RC4]}}}", "one or more of: TLS_AES_256_GCM"),
        ("iot: {security: {tls: {cipherSuites: []}}}", "found [], allowed is a list, one or more"),
        ("iot: {mqtt: {port: 8884}}", "iot.mqtt: port and servicePort are both 8884"),
        ("worker: {tickInterval: .nan}", "1:24: worker.tickInterval: found nan, allowed"),
        ("kafka: {bootstrap: nowhere}", "found 'nowhere', allowed is host:port"),
        ("kafka: 3", "1:8: kafka: found 3, allowed is a map of keys"),
        ("kafka:", "kafka: found nothing, allowed is a map of keys"),
        ("- 1", "1:1: a map of sections is needed"),
        ("{[1]: 2}", "1:2: a key is one word"),
        ("iot: !!python/name:os.system", "1:6: iot: not a value: could not determine"),
        ("a: &x {b: 1}\nc: *x", "2:4: not YAML: aliases are not accepted"),
        ("[" * 30, "not YAML: nested more than 20 levels deep"),
        ("iot: [1", "not YAML: "),
        ("a: 1\n---\nb: 2", "not YAML: "),
        ("\x00", "not YAML: "),
        ("#" * (FILE_BYTES_MAX + 1), "larger than 256 KiB"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_what_is_allowed(
    tmp_path: Path, text: str, said: str
) -> None:
    """File, line and column, the key, what was found, what is allowed; the nearest known key."""
    (found,) = told(tmp_path, text)
    assert found.startswith("fleetcert.yaml:")
    assert said in found


def test_all_mistakes_are_told_at_once_in_their_order(tmp_path: Path) -> None:
    """Form and values alike; the private key itself is not repeated."""
    text = "iot:\n  mqtt: {port: 0, port: 1, tls: {key: 3}}\n  x: 1\nworker: {batchMax: 0}\n"
    found = told(tmp_path, text)
    assert [one.split(": ")[1] for one in found] == [
        "iot.mqtt.port",
        "iot.mqtt.tls.key",
        "iot.x",
        "worker.batchMax",
    ]
    assert "found" not in found[1]


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """A wrong path, a folder and bytes that are no text are no traceback."""
    (tmp_path / "bytes").write_bytes(b"\xff")
    for name, said in (("absent", "No such file"), (".", "Is a directory"), ("bytes", "not UTF-8")):
        with pytest.raises(InvalidConfiguration, match=said):
            load(tmp_path / name, {})


def test_later_sources_win_and_each_value_knows_its_own(tmp_path: Path) -> None:
    """Defaults, file, environment, options."""
    (tmp_path / "fleetcert.yaml").write_text("iot:\n  mqtt:\n    port: 1\n    keepalive: 30\n")
    environment = {
        "FLEETCERT_IOT_MQTT_PORT": "2",
        "FLEETCERT_IOT_COAP_DTLS": "[DTLSv1.2]",
        "FLEETCERT_IOT_MQTT_HOST": "1",
        "FLEETCERT_FAULT": "of a test",
    }
    file = tmp_path / "fleetcert.yaml"
    loaded = load(file, environment, {"iot.coap.port": ("--coap-port", 3)})
    mqtt, coap = loaded.configuration.iot.mqtt, loaded.configuration.iot.coap
    assert (mqtt.port, mqtt.keepalive, mqtt.host) == (2, 30, "1")
    assert (coap.port, coap.dtls) == (3, ["DTLSv1.2"])
    origins = {one: loaded.origin(keys.every()[one]) for one in keys.every()}
    assert origins["iot.mqtt.port"] == "FLEETCERT_IOT_MQTT_PORT"
    assert origins["iot.mqtt.keepalive"] == f"{file}:4"
    assert origins["iot.coap.port"] == "--coap-port"
    assert origins["iot.mqtt.qos"] == DEFAULT


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("FLEETCERT_IOT_MQTT_PORT", "x", "FLEETCERT_IOT_MQTT_PORT: iot.mqtt.port: found 'x', all"),
        ("FLEETCERT_IOT_MQTT_PROT", "1", "no such variable; did you mean FLEETCERT_IOT_MQTT_PORT"),
        ("FLEETCERT_IOT_COAP_DTLS", "[", "FLEETCERT_IOT_COAP_DTLS: iot.coap.dtls: found '['"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    """The variable stands where a file's place would."""
    (found,) = told(tmp_path, "", {name: text})
    assert found.startswith(said) or said in found


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """The processes of the stack get exactly what holds for the stack."""
    options: dict[str, tuple[str, Any]] = {
        "iot.mqtt.tls.cert": ("", "-----BEGIN A\nb\n"),
        "iot.mqtt.tls.key": ("", "/k"),
        "iot.mqtt.tls.ca": ("", ["/a", "/b"]),
        "iot.monitoring.anomalyDetection": ("", False),
        "worker.tickInterval": ("", 0.25),
        "issuer.id": ("", "7"),
    }
    held = load(None, {}, options).configuration
    assert reading(tmp_path, written(held)).configuration == held
    assert written(Configuration()).strip() == "{}"


def test_a_relative_path_is_the_same_file_for_the_processes_of_the_stack(tmp_path: Path) -> None:
    """What is written lies in another folder than what was read."""
    held = load(None, {}, {"iot.mqtt.secretFile": ("", "here/stamp")}).configuration
    again = reading(tmp_path, written(held)).configuration
    assert again.iot.mqtt.secret_file == str(Path.cwd() / "here" / "stamp")


def test_every_key_has_its_own_variable_and_a_meaning() -> None:
    """No two keys share a variable, and each says what it is and what is allowed."""
    found = list(keys.every().values())
    assert len({one.variable for one in found}) == len(found)
    assert all(one.meaning and one.allowed for one in found)
