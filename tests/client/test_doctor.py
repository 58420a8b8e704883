"""What stops a start, in words that say what to do next; and what `fleetcert doctor` shows."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.local import doctor, kafka
from client.local.errors import LocalError
from client.local.layout import Layout
from client.local.ports import free_ports
from pki import authority

PROGRAM = str(Path(sys.executable).with_name("fleetcert"))
NO_PRIVILEGE = [
    "setpriv",
    "--bounding-set",
    "-dac_override,-dac_read_search",
    "--inh-caps",
    "-dac_override,-dac_read_search",
]
"""Makes root subject to the modes of files, as every other user is."""


def program(folder: Path, name: str, body: str) -> str:
    """Write a shell script that stands for a program; return its folder, as a PATH."""
    folder.mkdir(exist_ok=True)
    script = folder / name
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    return str(folder)


def run(*command: str, cwd: Path, path: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command, with another PATH where one is given."""
    return subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | {"COLUMNS": "160"} | ({"PATH": path} if path else {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def up(tmp_path: Path, *before: str, path: str = "", **ports: int) -> str:
    """Start a stack on `tmp_path / "data"` that cannot start; return the one line it says."""
    free = free_ports(6)
    names = ("kafka", "controller", "device", "service", "coap", "coap-plain")
    chosen = dict(zip(names, free, strict=True)) | ports
    words = [word for name, port in chosen.items() for word in (f"--{name}-port", str(port))]
    data_dir = str(tmp_path / "data")
    done = run(*before, PROGRAM, "up", "--data-dir", data_dir, *words, cwd=tmp_path, path=path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("echo 'openjdk version \"11.0.2\" 2019-01-15' >&2", "version 11, Kafka 4.3.1 needs 17"),
        ("echo 'java version \"1.8.0_392\"' >&2", "version 1, Kafka 4.3.1 needs 17 or newer"),
        ("echo 'no memory' >&2; exit 1", "does not run: no memory, Kafka 4.3.1 needs 17"),
    ],
)
def test_a_java_that_cannot_run_kafka_is_refused(tmp_path: Path, body: str, found: str) -> None:
    """Too old, or broken: what it says of itself, what is wanted, how to get it."""
    check = doctor.java(program(tmp_path / "bin", "java", body))
    assert not check.ok
    assert found in check.found
    assert "apt-get install default-jre-headless" in check.advice


@pytest.mark.parametrize("version", ["17.0.1", "21", "25-ea"])
def test_a_newer_java_will_do(tmp_path: Path, version: str) -> None:
    """Seventeen and everything after it."""
    path = program(tmp_path / "bin", "java", f"echo 'openjdk version \"{version}\"' >&2")
    check = doctor.java(path)
    assert (check.ok, check.found) == (True, f"version {version[:2]}")


def test_a_start_without_java_says_how_to_get_it(tmp_path: Path) -> None:
    """Before anything is made or fetched: exit code 1 and one line."""
    (tmp_path / "bin").mkdir()
    line = up(tmp_path, path=str(tmp_path / "bin"))
    assert line.startswith("fleetcert: Java: none on the PATH, Kafka 4.3.1 needs 17 or newer; ")
    assert "apt-get install default-jre-headless" in line
    assert not (tmp_path / "data" / "kafka").exists()


def test_a_start_with_an_old_java_says_which_is_wanted(tmp_path: Path) -> None:
    """The version that was found, and the one that is wanted."""
    old = program(tmp_path / "bin", "java", "echo 'openjdk version \"11.0.2\"' >&2")
    assert "version 11, Kafka 4.3.1 needs 17 or newer" in up(tmp_path, path=old)


def test_data_of_another_cluster_is_refused(tmp_path: Path) -> None:
    """Kafka would go on with whatever is there: both ids are named, and the ways out."""
    data = tmp_path / "data" / "kafka" / "data"
    data.mkdir(parents=True)
    (data / "meta.properties").write_text("#\nnode.id=1\nversion=1\ncluster.id=Ktheirs\n")
    line = up(tmp_path)
    assert f"{data} holds cluster Ktheirs, which this stack has not made" in line
    assert "choose another --data-dir" in line
    (data.parent / "cluster.id").write_text("Kours")
    assert f"{data} holds cluster Ktheirs, this stack's is Kours; put this stack's" in up(tmp_path)
    with pytest.raises(LocalError, match="Ktheirs"):
        kafka.format_storage(tmp_path, tmp_path, data)
    (data.parent / "cluster.id").write_text("Ktheirs")
    assert kafka.objection(data) == ""


def test_a_cluster_formatted_before_ids_were_kept_is_ours(tmp_path: Path) -> None:
    """Its id is kept from then on, and another one in its place is refused."""
    data = tmp_path / "data"
    data.mkdir()
    (data / ".formatted").touch()
    (data / "meta.properties").write_text("cluster.id=Kfirst\n")
    kafka.format_storage(tmp_path, tmp_path, data)
    assert (tmp_path / "cluster.id").read_text() == "Kfirst"
    (data / "meta.properties").write_text("cluster.id=Ksecond\n")
    assert "holds cluster Ksecond, this stack's is Kfirst" in kafka.objection(data)


@pytest.mark.parametrize(("name", "mode"), [("", 0o500), ("", 0o000), ("kafka", 0o500)])
def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path, name: str, mode: int) -> None:
    """Read-only, closed, or another user's inside: which one, whose it is, what to do."""
    folder = tmp_path / "data" / name
    folder.mkdir(parents=True)
    folder.chmod(mode)
    mortal = NO_PRIVILEGE if os.geteuid() == 0 else []
    line = up(tmp_path, *mortal)
    data_dir = str(tmp_path / "data")
    shown = run(*mortal, PROGRAM, "doctor", "--data-dir", data_dir, "--json", cwd=tmp_path)
    folder.chmod(0o700)
    named = {one["name"]: one for one in map(json.loads, shown.stdout.splitlines())}
    assert (named["data folder"]["ok"], shown.returncode) == (False, 1), shown.stderr
    assert f"data folder: {folder} cannot be read and written by this user" in line
    assert f"its owner is {folder.owner()}" in line
    assert "run as its owner, give it to this user, or choose another --data-dir" in line


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    """A data folder below a file cannot be made."""
    (tmp_path / "data").write_text("")
    assert str(tmp_path / "data") in up(tmp_path)


def test_a_taken_port_is_named_with_its_option(tmp_path: Path) -> None:
    """What the port is for, how to find its owner, which option changes it."""
    with socket.socket() as owner:
        owner.bind(("127.0.0.1", 0))
        owner.listen()
        port = owner.getsockname()[1]
        line = up(tmp_path, kafka=port)
    assert f"port {port}: taken; it is for Kafka; " in line
    assert line.endswith("or choose --kafka-port")


def test_a_taken_udp_port_is_seen(tmp_path: Path) -> None:
    """CoAP's ports are UDP's, which no connection attempt would show."""
    (other,) = free_ports(1)
    with socket.socket(type=socket.SOCK_DGRAM) as owner:
        owner.bind(("127.0.0.1", 0))
        port = owner.getsockname()[1]
        found = doctor.ports(Layout(coap_plain_port=port, coap_port=other))
    named = {one.name: one for one in found}
    assert named[f"port {port}/udp"].found == "taken; it is for coap"
    assert named[f"port {other}/udp"].ok
    assert "--coap-plain-port" in named[f"port {port}/udp"].advice


def test_every_worker_and_bridge_has_its_port_checked() -> None:
    """As many as are started."""
    names = Layout(workers=2, bridges=3).ports()
    assert {"metrics of worker-1", "metrics of bridge-2"} <= set(names)
    assert "metrics of worker-1" not in Layout().ports()


def test_a_volume_with_too_little_room_is_named(tmp_path: Path) -> None:
    """A volume of its own with 10 MiB: what is there, what is wanted."""
    (tmp_path / "data").mkdir()
    mount = 'mount -t tmpfs -o size=10m fleetcert data && exec "$@"'
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", mount, "sh"]
    line = up(tmp_path, *namespace)
    assert f"disk: 10 MiB free for {tmp_path / 'data'}, the stack wants 1024; make room" in line


def test_a_clock_that_went_back_is_seen(tmp_path: Path) -> None:
    """By what was written here already, and by the device CA's own validity."""
    layout, now = Layout(data_dir=tmp_path), time.time()
    assert doctor.clock(layout, now).ok
    back = doctor.clock(layout, 86_400.0)
    assert not back.ok
    assert back.found.startswith("1970-01-02 00:00:00+00:00")
    assert "NTP" in back.advice
    authority.create(layout.pki_dir, now=datetime.now(UTC))
    assert doctor.clock(layout, now + 60).ok
    ahead = doctor.clock(layout, now + 100 * 365 * 86_400)
    assert "the device CA is not valid" in ahead.found


def test_doctor_shows_what_is_missing_and_fails(tmp_path: Path) -> None:
    """Nothing is fetched or built there, no compiler is on the PATH: each with its advice."""
    (tmp_path / "bin").mkdir()
    done = run(PROGRAM, "doctor", "--json", cwd=tmp_path, path=str(tmp_path / "bin"))
    found = {one["name"]: one for one in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 1
    for name, advice in (
        ("Java", "default-jre-headless"),
        ("Kafka", "apt-get install maven"),
        ("gcc", "apt-get install gcc"),
    ):
        assert not found[name]["ok"]
        assert found[name]["needed"]
        assert advice in found[name]["advice"]
    assert not found["identity plugin"]["needed"]
    assert {*doctor.HEADERS, "disk", "memory", "clock", "DTLS 1.3", "Kafka's data"} <= set(found)
    shown = run(PROGRAM, "doctor", cwd=tmp_path, path=str(tmp_path / "bin"))
    assert shown.returncode == 1
    assert "MISSING" in shown.stdout
    assert "not yet" in shown.stdout


def test_what_is_wanted_only_stops_nothing() -> None:
    """Without DTLS 1.3 the stack starts; without Java it does not."""
    wanted = doctor.Check("DTLS 1.3", False, "not built", "make setup", needed=False)
    doctor.demand([wanted])
    with pytest.raises(LocalError, match="Java: none; install it"):
        doctor.demand([wanted, doctor.Check("Java", False, "none", "install it")])


def test_a_mosquitto_is_found_with_its_version() -> None:
    """The one that the suites run on takes the plugin."""
    check = doctor.mosquitto()
    assert check.ok, check
    assert check.found.startswith("version 2.")
    assert shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin") is not None
