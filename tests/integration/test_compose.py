"""docker-compose.yml, really run: collected where a container engine answers (see conftest.py)."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import cbor2
import pytest

from client.local import dtls13
from device.coap.link import COAPS, COAPS_TCP
from device.link import MQTTS
from schemas.decisions import DecisionName
from schemas.events import DeviceReported
from schemas.topics import DEVICE_EVENTS
from tests.helpers.compose import SERVICES, Compose
from tests.helpers.wait import until

WITHIN = 60.0
DEVICE = "contained-1"
SCHEMES = (COAPS_TCP, COAPS) if dtls13.installed() else (COAPS_TCP,)
"""The devices of this file run on this machine; the images have DTLS 1.3 in any case."""
DRAINED = {"mosquitto": 0, "issuer": 0, "bridge": 0, "coap": 0, "est": 0, "worker": 0}
"""Exit codes after SIGTERM. A JVM ends with 143."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """The whole stack in containers; nothing of it is left."""
    compose = Compose(f"fleetcert-{tmp_path_factory.getbasetemp().name}")
    try:
        compose.up()
        yield compose
    finally:
        compose.remove()


def device(*arguments: str | Path) -> None:
    """Run one command of the device program on this machine."""
    subprocess.run([sys.executable, "-m", "device", *map(str, arguments)], check=True, timeout=30)


def enrol(stack: Compose, folder: Path, device_id: str = DEVICE) -> None:
    """Key and CSR on the device; signature and registration where the authorities are."""
    device("init", "--id", device_id, "--dir", folder)
    sign = "cat >/tmp/csr && fleetcert pki sign /tmp/csr --out /tmp/pem >&2 && cat /tmp/pem"
    pem, ca = folder / "device.pem", folder / "ca.pem"
    request = (folder / "device.csr").read_text()
    pem.write_text(stack.operator("sh", "-c", sign, input=request))
    register = f"cat >/tmp/pem && fleetcert device register {device_id} --cert /tmp/pem"
    stack.operator("sh", "-c", register, input=pem.read_text())
    device("adopt", "--id", device_id, "--dir", folder, "--cert", pem)
    ca.write_text(stack.operator("cat", "/identities/pki/service-ca/ca.pem"))


@contextlib.contextmanager
def running_device(
    stack: Compose, folder: Path, device_id: str = DEVICE, scheme: str = MQTTS
) -> Iterator[IO[str]]:
    """Run the device on this machine, yield its input; at its end all lines are recorded."""
    port = stack.mqtt_port if scheme == MQTTS else stack.coap_port
    command = [sys.executable, "-m", "device", "run", "--id", device_id, "--dir", str(folder)]
    command += ["--host", "localhost", "--port", str(port)]
    command += ["--ca", str(folder / "ca.pem"), "--report", "temperature"]
    command += [] if scheme == MQTTS else ["--coap", scheme]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
    try:
        assert process.stdin is not None
        yield process.stdin
        process.stdin.close()
        assert process.wait(WITHIN) == 0
    finally:
        process.kill()
        process.wait()


def say(lines: IO[str], celsius: float) -> None:
    """Let the device report."""
    lines.write(json.dumps({"celsius": celsius}) + "\n")
    lines.flush()


def measured(stack: Compose, device_id: str = DEVICE) -> list[DeviceReported]:
    """Return what the device has measured, as the history has it."""
    found = [one.record for one in stack.fleet.read(DEVICE_EVENTS, key=device_id.encode())]
    reports = [one for one in found if isinstance(one, DeviceReported)]
    return [one for one in reports if one.event_type == "temperature"]


def temperatures(stack: Compose, device_id: str = DEVICE) -> list[float]:
    """Return the figures of it."""
    bodies = [cbor2.loads(one.payload) for one in measured(stack, device_id)]
    return [one["body"]["celsius"] for one in bodies]


def completed(stack: Compose) -> bool:
    """Tell whether the device's rotation is over, its new certificate proven."""
    names = {one.name for one in stack.fleet.decisions(DEVICE)}
    return {DecisionName.CERTIFICATE_PROVEN, DecisionName.ROTATION_COMPLETED} <= names


def test_the_stack_in_containers_rotates_and_resumes(stack: Compose, tmp_path: Path) -> None:
    """Enrolled, rotated, proven by the replay; taken down, and started again on the same data."""
    stack.operator("fleetcert", "policy", "set", "grace_ms=2000")
    enrol(stack, tmp_path)
    with running_device(stack, tmp_path) as lines:
        say(lines, 21.5)
        until(lambda: temperatures(stack), within=WITHIN, describe="a report in the history")
        stack.operator("fleetcert", "device", "rotate", DEVICE)
        until(lambda: completed(stack), within=WITHIN, describe="the rotation is completed")
    assert "DIFFERENT" not in stack.operator("fleetcert", "replay", "--verify")
    before = stack.fleet.device(DEVICE)

    stack.run("stop")
    ended = {name: one["ExitCode"] for name, one in stack.processes().items()}
    assert {name: ended[name] for name in SERVICES if name != "kafka"} == DRAINED
    stack.run("down")
    stack.up()

    assert stack.fleet.device(DEVICE).certificates == before.certificates
    with running_device(stack, tmp_path) as lines:
        say(lines, 22.5)
    assert temperatures(stack) == [21.5, 22.5]
    assert "DIFFERENT" not in stack.operator("fleetcert", "replay", "--verify")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_device_of_coap_is_recorded(stack: Compose, tmp_path: Path, scheme: str) -> None:
    """Through the published ports of TCP and UDP: the bridge of the image speaks DTLS 1.3."""
    device_id = f"contained-{scheme.replace('+', '-')}"
    stack.run("exec", "-T", "coap", "python", "-c", "import fleetcert_dtls13")
    enrol(stack, tmp_path, device_id)
    with running_device(stack, tmp_path, device_id, scheme) as lines:
        say(lines, 23.5)
    assert temperatures(stack, device_id) == [23.5]
    assert {one.evidence.protocol for one in measured(stack, device_id)} == {"coap"}


def test_each_service_sees_only_its_own_files(stack: Compose) -> None:
    """The device CA's key is with the issuer; no container runs as root or can write its image."""
    for name in DRAINED:
        seen = stack.run("exec", "-T", name, "sh", "-c", "id -u; find /run -name '*.key'")
        user, *keys = seen.split()
        assert user != "0"
        assert any("device-ca" in one for one in keys) == (name == "issuer"), (name, keys)
        assert not any("root" in one for one in keys)
        touched = stack.run("exec", "-T", name, "sh", "-c", "touch /usr/x 2>&1 || echo refused")
        assert "refused" in touched
