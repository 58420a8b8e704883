"""`fleetcert config`: check, show, schema."""

import json
from pathlib import Path

from typer.testing import CliRunner, Result

from client.cli import app
from configuration import keys
from configuration.model import Configuration


def run(*words: str, **environment: str) -> Result:
    """Run a command in this process."""
    env = {"COLUMNS": "200", **environment}
    return CliRunner().invoke(app, ["config", *words], env=env)


def test_check_tells_all_that_is_wrong_as_json(tmp_path: Path) -> None:
    """One document per mistake, with line, column, key, what was found and what is allowed."""
    file = tmp_path / "f.yaml"
    file.write_text("iot:\n  mqtt: {prot: 1, qos: 9}\n")
    done = run("check", str(file), "--json")
    unknown, wrong = (json.loads(line) for line in done.output.splitlines())
    assert done.exit_code == 1
    assert (unknown["line"], unknown["column"], unknown["key"]) == (2, 10, "iot.mqtt.prot")
    assert (wrong["found"], wrong["allowed"][:6]) == ("9", "1 or 2")
    file.write_text("iot: {mqtt: {qos: 2}}")
    assert (
        run("check", str(file)).output == f"{file}: valid, 1 of {len(keys.every())} keys are set\n"
    )


def test_show_tells_the_source_of_each_value_and_no_secret(tmp_path: Path) -> None:
    """Default, file and line, variable; a private key is never shown."""
    file = tmp_path / "f.yaml"
    file.write_text(
        "iot:\n  mqtt:\n    tls: {cert: c, key: '-----BEGIN KEY', ca: [-----BEGIN C]}\n"
    )
    environment = {"FLEETCERT_CONFIG": str(file), "FLEETCERT_IOT_MQTT_QOS": "2"}
    done = run("show", "iot.mqtt", "--json", **environment)
    rows = {one["key"]: one for one in map(json.loads, done.output.splitlines())}
    assert rows["iot.mqtt.qos"]["source"] == "FLEETCERT_IOT_MQTT_QOS"
    assert rows["iot.mqtt.port"]["source"] == "default"
    assert rows["iot.mqtt.tls.key"]["value"] == "(not shown)"
    assert rows["iot.mqtt.tls.key"]["source"] == f"{file}:3"
    assert rows["iot.mqtt.tls.ca"]["value"] == ["(PEM text)"]
    assert "iot.coap.port" not in rows
    assert "BEGIN KEY" not in run("show", **environment).output


def test_the_schema_knows_every_key_its_limits_and_its_default() -> None:
    """An editor is told what the model knows, and refuses what the model refuses."""
    schema = json.loads(run("schema").output)
    mqtt = schema["$defs"]["Mqtt"]
    assert mqtt["additionalProperties"] is False
    port = mqtt["properties"]["port"]
    assert (port["minimum"], port["maximum"], port["default"]) == (1, 65535, 8883)
    assert set(schema["properties"]) == set(Configuration().model_dump(by_alias=True))
