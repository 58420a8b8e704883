"""The program `python -m device`, from a new directory to recorded reports."""

import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from device import faults, provision, slots
from device.provision import DeviceCa
from device.simulator import Plan, Simulator
from device.store import Store
from pki.requests import examine
from schemas.progress import IN_WORK
from tests.device.authorities import ADDRESS
from tests.device.conftest import Bridge, Broker
from tests.helpers.artefacts import KEY_ID, Artefacts
from tests.helpers.wait import until_async

CHECK = "sh -c 'grep -q two \"$FLEETCERT_ARTEFACT\"'"


def program(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    command = [sys.executable, "-m", "device", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_help_has_examples() -> None:
    """`--help` shows whole command lines."""
    assert "python -m device simulate --count" in program("--help").stdout


def test_errors_are_one_line_and_status_1(tmp_path: Path) -> None:
    """An id that cannot name a device is refused without a traceback."""
    ended = program("init", "--id", "no/id", "--dir", tmp_path / "x")
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: device id")


def test_a_device_without_certificate_says_what_to_do(tmp_path: Path) -> None:
    """`run` before `init` and `adopt` ends at once, with status 1 and one line."""
    ended = program("run", "--id", "x", "--dir", tmp_path / "x", "--ca", tmp_path / "ca.pem")
    assert ended.returncode == 1
    assert "no certificate with a matching key" in ended.stderr.splitlines()[-1]


def test_too_few_open_files_are_told_before_any_device_starts(tmp_path: Path) -> None:
    """Where the machine allows too few files, the simulator says how many devices it can run."""
    words = [sys.executable, "-m", "device", "simulate", "--count", "1000", "--dir", tmp_path / "x"]
    ended = subprocess.run(
        ["sh", "-c", 'ulimit -n 1024 && exec "$@"', "sh", *words, "--ca", tmp_path / "ca.pem"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "1000 devices want 8256 open files and this machine allows 1024" in ended.stderr
    assert "at most 96 devices" in ended.stderr
    assert not (tmp_path / "x").exists()


def test_a_folder_of_another_device_is_refused(tmp_path: Path, ca: DeviceCa) -> None:
    """`run` under a wrong id ends at once and says whose identity is there, where it tried on."""
    provision.provision(ca, "lamp", tmp_path / "lamp", 3600)
    ended = program("run", "--id", "pump", "--dir", tmp_path / "lamp", "--ca", tmp_path / "ca.pem")
    assert ended.returncode == 1
    assert "holds the identity of lamp, not of pump" in ended.stderr


def test_what_is_no_certificate_is_named(tmp_path: Path) -> None:
    """`adopt` of another file names it, without the words of a library."""
    other = tmp_path / "README.md"
    other.write_text("# fleetcert")
    ended = program("adopt", "--id", "lamp", "--dir", tmp_path / "lamp", "--cert", other)
    assert ended.returncode == 1
    assert ended.stderr == f"error: {other} is no certificate in PEM\n"


async def test_from_init_to_recorded_reports(
    tmp_path: Path, ca: DeviceCa, broker: Broker, bridge: Bridge
) -> None:
    """`init`, an issued certificate, `adopt`, `run`: a line of input is recorded; SIGTERM ends."""
    folder = tmp_path / "lamp"
    assert program("init", "--id", "lamp", "--dir", folder).returncode == 0
    csr = x509.load_pem_x509_csr((folder / "device.csr").read_bytes())
    certificate = provision.issue(ca, "lamp", csr.public_key(), 3600)
    pem = tmp_path / "lamp.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    assert program("adopt", "--id", "lamp", "--dir", folder, "--cert", pem).returncode == 0

    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "device", "run", "--id", "lamp", "--dir", str(folder)],
        *["--host", ADDRESS, "--port", str(broker.port), "--ca", str(broker.ca_file)],
        *["--report", "temperature"],
        stdin=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(b'{"celsius": 21.5}\n')
    (heard,) = await until_async(lambda: bridge.heard("/events/temperature"))
    assert heard["body"] == {"celsius": 21.5}
    process.send_signal(signal.SIGTERM)
    process.stdin.close()
    assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_a_simulated_device_dies_in_rotation_and_ends_it(
    tmp_path: Path, ca: DeviceCa, broker: Broker, bridge: Bridge
) -> None:
    """`dies-installing` loses power in InstallCertificate, restarts, and installs it after all."""
    plan = Plan(
        tmp_path / "fleet", ADDRESS, broker.port, broker.ca_file, 1,
        rate=10, shares={"dies-installing": 1.0}, ca=ca,
    )  # fmt: skip
    simulator = Simulator(plan)
    (device_id,) = simulator.behaviours
    running = asyncio.create_task(simulator.run())
    await until_async(lambda: bridge.heard("/events/health"))
    await bridge.command(device_id, "c-1", "RotateCertificate", nonce=b"n")
    (request,) = await until_async(lambda: bridge.heard("/replies/c-1"))
    csr = x509.load_der_x509_csr(examine(request["signing_request"], None).csr)
    new = provision.issue(ca, device_id, csr.public_key(), 3600)
    der = new.public_bytes(serialization.Encoding.DER)
    await bridge.command(device_id, "c-2", "InstallCertificate", certificate=der)
    await until_async(lambda: bridge.heard("/replies/c-2"), within=15)
    newest = Store(plan.directory / device_id).identities()[0].fingerprint
    await until_async(
        lambda: [one for one in bridge.heard("/health") if one["body"]["fingerprint"] == newest]
    )
    assert simulator.ledger.counts["died"] == 1
    simulator.stop()
    await running


async def test_an_update_reboots_and_survives_a_kill(
    lamp: Path, broker: Broker, bridge: Bridge, artefacts: Artefacts, tmp_path: Path
) -> None:
    """Status 3 asks for a start; killed before the slot is confirmed, the next start confirms."""
    key = tmp_path / "release.pem"
    public = artefacts.key.public_key()
    key.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    update = artefacts.offer("2", b"two")

    async def start(fault: str = "") -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "device", "run", "--id", "lamp", "--dir", str(lamp)],
            *["--host", ADDRESS, "--port", str(broker.port), "--ca", str(broker.ca_file)],
            *["--update-key", f"{KEY_ID}={key}", "--health", CHECK, "--report", "x"],
            stdin=subprocess.PIPE,
            env=os.environ | {faults.VARIABLE: fault},
        )

    first = await start()
    await until_async(lambda: bridge.heard("/events/health"))
    await bridge.command("lamp", "u-1", "InstallUpdate", **dataclasses.asdict(update))
    assert await asyncio.wait_for(first.wait(), 20) == 3
    assert program("slot", "--id", "lamp", "--dir", lamp).stdout.strip().endswith("a/artefact")
    killed = await start("update:before-confirmed")
    assert await asyncio.wait_for(killed.wait(), 20) == -signal.SIGKILL
    last = await start()
    await until_async(lambda: bridge.heard("/replies/u-1")[-1].get("progress") == "done", 20)
    last.send_signal(signal.SIGTERM)
    assert last.stdin is not None
    last.stdin.close()
    assert await asyncio.wait_for(last.wait(), 20) == 0
    said = {(one["boot"], one["sequence"]): one for one in bridge.heard("/replies/u-1")}
    assert [one.get("progress", "") for one in said.values()] == ["", *IN_WORK, "done"]
    held = slots.read(lamp)
    assert held.good is not None
    assert slots.is_whole(lamp, held.good)


def test_what_a_device_without_updates_says(lamp: Path) -> None:
    """No slot holds anything, and a self check alone is of no use: each is told in a line."""
    nothing = program("slot", "--id", "lamp", "--dir", lamp)
    assert (nothing.returncode, nothing.stderr) == (
        1, "error: nothing is installed: run what the device was shipped with\n",
    )  # fmt: skip
    useless = program("run", "--id", "lamp", "--dir", lamp, "--ca", lamp, "--health", "true")
    assert useless.returncode == 1
    assert "--update-key" in useless.stderr
    wrong = program("run", "--id", "lamp", "--dir", lamp, "--ca", lamp, "--update-key", "pem")
    assert wrong.returncode == 2
    assert "'pem' is not KEYID=FILE" in wrong.stderr
