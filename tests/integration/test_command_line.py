"""`fleetcert` on a running stack: what an operator types, and what comes back."""

import json
import os
import pty
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.fleet import Fleet, FleetError, Timeouts
from client.local.ports import free_ports
from pki.facts import facts
from pki.profile import issue_device
from pki.requests import make_csr
from schemas import codec, topics
from schemas.topics import DEVICE_EVENTS
from tests.helpers.stack import RunningStack
from tests.helpers.wait import until

PROGRAM = str(Path(sys.executable).with_name("fleetcert"))


def certificate(stack: RunningStack, directory: Path, device_id: str) -> Path:
    """Write a certificate of the stack's device CA for a device; return the file."""
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    now = datetime.now(UTC)
    der = issue_device(stack.authorities, device_id, key, device_id, now, timedelta(days=90))
    pem = x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
    file = directory / f"{device_id}.pem"
    file.write_bytes(pem)
    return file


def registered(stack: RunningStack, directory: Path, device_id: str) -> None:
    """Register a device by the command line, and wait for its row."""
    file = certificate(stack, directory, device_id)
    done = stack.command("device", "register", device_id, "--cert", str(file))
    assert done.returncode == 0, done.stderr
    until(lambda: stack.fleet.find(device_id), within=20, describe=f"a row of {device_id}")


def environment(stack: RunningStack, **more: str) -> dict[str, str]:
    """Return the environment of a program that talks to the stack."""
    return (
        os.environ | {"FLEETCERT_KAFKA_BOOTSTRAP": stack.layout.bootstrap, "COLUMNS": "160"} | more
    )


def refused(done: subprocess.CompletedProcess[str], code: int = 1) -> str:
    """Return the one line that says why a command was refused."""
    assert done.returncode == code, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("fleetcert: ")
    return line


# -- the stack ----------------------------------------------------------------------------------


def test_status_shows_every_process_running(stack: RunningStack) -> None:
    """Each process of the stack is listed, running, and the workers' lag is known."""
    (status,) = stack.json("status")
    names = {one["name"] for one in status["processes"]}
    assert names == {"kafka", "mosquitto", "issuer", "bridge-0", "coap", "est", "worker-0"}
    assert set(status["lag"]) == {"0", "1"}
    shown = stack.command("status").stdout
    assert "worker-0" in shown
    assert "(records not yet committed)" in shown


def test_a_second_stack_on_the_same_data_is_refused(stack: RunningStack) -> None:
    """One supervisor per data directory: the second one says how to go on."""
    assert "fleetcert down" in refused(stack.command("up"))


def test_down_where_nothing_runs_says_so(stack: RunningStack, tmp_path: Path) -> None:
    """Stopping is done already; JSON tells it apart from a stop."""
    done = stack.command("down", "--data-dir", str(tmp_path), "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"stopped": False, "data_dir": str(tmp_path)}


def test_doctor_knows_the_stack_that_runs(stack: RunningStack) -> None:
    """Its ports are its own, its data is its cluster's, its folder is in use."""
    done = stack.command("doctor", "--json")
    checks = {one["name"]: one for one in map(json.loads, done.stdout.splitlines())}
    for name in ("Python", "Java", "mosquitto", "identity plugin", "data folder", "Kafka's data"):
        assert checks[name]["ok"], checks[name]
    assert not [name for name in checks if name.startswith("port ")]
    needed = [one["ok"] for one in checks.values() if one["needed"]]
    assert done.returncode == (0 if all(needed) else 1)


def test_authorities_are_made_once(stack: RunningStack, tmp_path: Path) -> None:
    """`pki init` makes them, and never a second time in the same folder."""
    folder = str(tmp_path / "pki")
    (made,) = [json.loads(stack.command("pki", "init", "--directory", folder, "--json").stdout)]
    assert Path(made["root"], "root.pem").exists()
    assert "exists" in refused(stack.command("pki", "init", "--directory", folder))


# -- devices ------------------------------------------------------------------------------------


def test_a_registered_device_is_listed_and_shown(stack: RunningStack, tmp_path: Path) -> None:
    """Register, list and show agree on a device."""
    registered(stack, tmp_path, "shown-1")
    listed = {one["device_id"] for one in stack.json("device", "list")}
    assert "shown-1" in listed
    (shown,) = stack.json("device", "show", "shown-1")
    assert shown["device"]["rotation"]["kind"] == "Idle"
    assert [one["name"] for one in shown["decisions"]] == ["DeviceAccepted"]
    assert "shown-1" in stack.command("device", "show", "shown-1").stdout


def test_many_devices_are_registered_from_a_folder(stack: RunningStack, tmp_path: Path) -> None:
    """Each file is a device, named as its certificate names it; every one is found again.

    The client reads the one partition that its murmur2 names: a device that Kafka's producer had
    put elsewhere would not be found.
    """
    names = [f"folder-{number}" for number in range(12)]
    for name in names:
        certificate(stack, tmp_path, name)
    recorded = stack.json("device", "register", "--cert-dir", str(tmp_path))
    assert [one["device_id"] for one in recorded] == sorted(names)
    for name in names:
        until(lambda name=name: stack.fleet.find(name), within=20, describe=f"a row of {name}")
    assert set(names) <= set(stack.fleet.ids())


def test_a_certificate_of_another_device_is_refused(stack: RunningStack, tmp_path: Path) -> None:
    """The certificate must name the device that is registered with it."""
    file = certificate(stack, tmp_path, "named-1")
    done = stack.command("device", "register", "named-2", "--cert", str(file))
    assert "names named-1, not named-2" in refused(done)


def test_a_taken_id_is_refused(stack: RunningStack, tmp_path: Path) -> None:
    """The same certificate again changes nothing; another one is refused, with what to do."""
    registered(stack, tmp_path, "taken-1")
    file = tmp_path / "taken-1.pem"
    again = stack.command("device", "register", "taken-1", "--cert", str(file))
    assert again.returncode == 0, again.stderr
    certificate(stack, tmp_path, "taken-1")
    done = stack.command("device", "register", "taken-1", "--cert", str(file))
    assert "registered with another certificate" in refused(done)


def test_an_ordered_rotation_starts(stack: RunningStack, tmp_path: Path) -> None:
    """`device rotate` puts the device's saga into requested."""
    registered(stack, tmp_path, "ordered-1")
    (order,) = stack.json("device", "rotate", "ordered-1")
    assert order["device_id"] == "ordered-1"
    until(
        lambda: type(stack.fleet.device("ordered-1").rotation).__name__ == "Requested",
        within=20,
        describe="requested",
    )


def test_an_unknown_device_is_a_clear_error(stack: RunningStack) -> None:
    """Showing a device that is not registered says so, on one line, with exit code 1."""
    assert "no device 'nobody' is registered" in refused(stack.command("device", "show", "nobody"))


def test_a_bad_device_id_is_a_clear_error(stack: RunningStack, tmp_path: Path) -> None:
    """An id with a slash is refused before anything is sent."""
    file = tmp_path / "any.pem"
    file.write_bytes(b"-----BEGIN CERTIFICATE-----")
    done = stack.command("device", "register", "a/b", "--cert", str(file))
    assert "is no device id" in refused(done)


def enrolling(stack: RunningStack, folder: Path, device_id: str, *more: str) -> list[str]:
    """Return the command that orders a device's first certificate; makes its request once."""
    csr = folder / f"{device_id}.csr"
    if not csr.exists():
        csr.write_bytes(make_csr(device_id, ec.generate_private_key(ec.SECP256R1())))
    registrar = str(stack.layout.services_dir / "registrar.pem")
    command = ["device", "register", device_id, "--csr", str(csr), "--registrar", registrar]
    return [*command, "--out", str(folder / f"{device_id}.pem"), *more]


def test_a_device_gets_its_first_certificate_from_the_issuer(
    stack: RunningStack, tmp_path: Path
) -> None:
    """By its request alone: signed, registered, in the file; repeated, the same; then rotated."""
    (first,) = stack.json(*enrolling(stack, tmp_path, "enrolled-1", "--type", "pump"))
    held = facts((tmp_path / "enrolled-1.pem").read_bytes())
    assert first["fingerprint"] == held.fingerprint.hex()
    row = until(lambda: stack.fleet.find("enrolled-1"), within=20, describe="its row")
    assert (row.device_type, row.certificates[0].fingerprint) == ("pump", held.fingerprint)
    (event,) = (one.record for one in stack.fleet.read(DEVICE_EVENTS, device_id="enrolled-1"))
    assert (type(event).__name__, event.actor) == ("DeviceRegistered", "registrar")
    assert stack.json(*enrolling(stack, tmp_path, "enrolled-1")) == [first]
    (tmp_path / "enrolled-1.csr").unlink()
    done = stack.command(*enrolling(stack, tmp_path, "enrolled-1"))
    assert "enrolled-1 is registered with another key" in refused(done)


def test_nobody_else_gets_a_first_certificate(stack: RunningStack, tmp_path: Path) -> None:
    """A door's key orders nothing, another device's request is not even sent, nothing is left."""
    door = ("--registrar", str(stack.layout.services_dir / "est.pem"))
    said = refused(stack.command(*enrolling(stack, tmp_path, "refused-1", *door)))
    assert "the issuer refuses (wrong-signature): no registrar of ours signed the order" in said
    assert not (tmp_path / "refused-1.pem").exists()
    other = ("--csr", str(tmp_path / "refused-1.csr"))
    said = refused(stack.command(*enrolling(stack, tmp_path, "refused-2", *other)))
    assert "the request names refused-1, not refused-2" in said
    nobody = ("--registrar", str(tmp_path / "nobody.pem"))
    said = refused(stack.command(*enrolling(stack, tmp_path, "refused-1", *nobody)))
    assert "nobody.pem" in said
    assert "--registrar" in said
    assert stack.fleet.find("refused-1") is None
    assert stack.fleet.decisions("refused-1") == []


def test_an_issuer_that_is_away_is_said(stack: RunningStack, tmp_path: Path) -> None:
    """The command gives up in its time; the order stands, and asked again it is answered."""
    stack.kill("issuer", signal.SIGSTOP)
    try:
        done = stack.command(*enrolling(stack, tmp_path, "waiting-1", "--within", "2"))
    finally:
        stack.kill("issuer", signal.SIGCONT)
    assert "no answer of the issuer within 2 s" in refused(done)
    stack.json(*enrolling(stack, tmp_path, "waiting-1"))
    held = facts((tmp_path / "waiting-1.pem").read_bytes())
    row = until(lambda: stack.fleet.find("waiting-1"), within=20, describe="its row")
    assert [one.fingerprint for one in row.certificates] == [held.fingerprint]
    assert {one.name for one in stack.fleet.decisions("waiting-1")} == {"DeviceAccepted"}


def test_alerts_are_listed(stack: RunningStack) -> None:
    """As a table and as JSON, the same ones."""
    listed = stack.json("alerts")
    assert f"{len(listed)} open alerts" in stack.command("alerts").stdout


# -- the history --------------------------------------------------------------------------------


def test_the_history_is_exported_to_parquet(stack: RunningStack, tmp_path: Path) -> None:
    """Every record of a device becomes one row, its offset beside it."""
    registered(stack, tmp_path, "exported-1")
    target = tmp_path / "events.parquet"
    (told,) = stack.json("events", "export", str(target), "--device", "exported-1")
    rows = pq.read_table(target).to_pylist()
    assert told["records"] == len(rows) == 1
    assert [(one["key"], one["kind"]) for one in rows] == [("exported-1", "DeviceRegistered")]
    assert json.loads(rows[0]["record"])["device_id"] == "exported-1"


def test_a_whole_topic_is_exported(stack: RunningStack, tmp_path: Path) -> None:
    """Without a device, every record of every partition is in the file."""
    target = tmp_path / "decisions.parquet"
    before = {(one.partition, one.offset) for one in stack.fleet.read("decisions")}
    done = stack.command("events", "export", str(target), "--topic", "decisions")
    assert done.returncode == 0, done.stderr
    found = {(one["partition"], one["offset"]) for one in pq.read_table(target).to_pylist()}
    assert found >= before
    done = stack.command("events", "export", str(tmp_path / "events.csv"))
    assert "must end in .parquet" in refused(done)


def test_events_are_filtered_by_device_kind_and_time(stack: RunningStack, tmp_path: Path) -> None:
    """One device's records only, of the kinds asked for, since the instant asked for."""
    registered(stack, tmp_path, "tailed-1")
    tail = ("events", "tail", "--no-follow", "--device", "tailed-1")
    found = stack.json(*tail, "--since", "start")
    assert [one["record"]["kind"] for one in found] == ["DeviceRegistered"]
    assert stack.json(*tail, "--since", "start", "--kind", "ClockTicked") == []
    assert stack.json(*tail, "--since", "10m") == found
    assert stack.json(*tail, "--since", "now") == []
    (line,) = stack.command(*tail, "--since", "10m").stdout.splitlines()
    assert "DeviceRegistered" in line
    assert "by operator" in line
    assert line[19:20] == "Z"
    decided = stack.json(*tail, "--since", "start", "--topic", "decisions")
    assert [one["record"]["name"] for one in decided] == ["DeviceAccepted"]


def test_what_cannot_be_filtered_by_says_what_can(stack: RunningStack) -> None:
    """A kind, a topic or an instant that does not exist is named, and the right ones are shown."""
    for options, said in (
        (("--kind", "DeviceReport"), "did you mean DeviceReported?"),
        (("--topic", "devices"), "device.events"),
        (("--since", "yesterday"), "2026-11-25T10:00"),
    ):
        assert said in refused(stack.command("events", "tail", *options))


def test_a_follower_sees_what_comes_and_ends_by_ctrl_c(stack: RunningStack, tmp_path: Path) -> None:
    """`events tail` prints a record as it is recorded; Ctrl-C ends it quietly with 130."""
    running = subprocess.Popen(
        [PROGRAM, "events", "tail", "--kind", "ClockTicked", "--json"],
        env=environment(stack),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    assert running.stderr is not None
    assert json.loads(running.stdout.readline())["record"]["kind"] == "ClockTicked"
    running.send_signal(signal.SIGINT)
    assert running.wait(20) == 130
    assert running.stderr.read() == ""


def test_a_reader_that_leaves_is_no_error(stack: RunningStack) -> None:
    """A pipe that closes early ends the command with 141 and without a word."""
    command = f"{PROGRAM} events tail --all --since start --no-follow; echo code $? >&2"
    done = subprocess.run(
        ["sh", "-c", f"({command}) | head -1"],
        env=environment(stack),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr.splitlines() == ["code 141"]


def test_a_replay_is_identical_and_an_altered_row_is_named(
    stack: RunningStack, tmp_path: Path
) -> None:
    """The replay agrees with the live rows; one altered row makes it fail and name the device."""
    registered(stack, tmp_path, "altered-1")
    assert stack.command("replay", "--verify").returncode == 0
    row = next(one for one in stack.fleet.read(topics.DEVICE_STATE) if one.key == b"altered-1")
    whole = codec.encode(row.record)
    altered = whole.replace(b"device", b"devise", 1)
    producer = Producer({"bootstrap.servers": stack.layout.bootstrap})
    producer.produce(topics.DEVICE_STATE, altered, row.key, partition=row.partition)
    producer.flush()
    done = stack.command("replay", "--verify", "--json")
    producer.produce(topics.DEVICE_STATE, whole, row.key, partition=row.partition)
    producer.flush()
    assert done.returncode == 4
    said = [json.loads(line) for line in done.stdout.splitlines()]
    verdicts = {one["partition"]: one for one in said if one["machine"] == "devices"}
    different = verdicts[row.partition]
    assert different["difference"] == "altered-1: device_type is 'devise', replayed 'device'"
    assert different["live_digest"] != different["replayed_digest"]
    others = [one for one in said if one is not different]
    assert len(others) == 3
    assert all(one["identical"] for one in others)
    assert stack.command("replay", "--verify").returncode == 0


def test_a_policy_change_is_recorded(stack: RunningStack) -> None:
    """`policy set` changes one field of every partition's policy and keeps the rest."""
    before = stack.fleet.partition_row(0).policy
    (changed,) = stack.json("policy", "set", "days_before_expiry=31")
    assert changed["days_before_expiry"] == 31
    until(
        lambda: stack.json("policy", "show")[0]["days_before_expiry"] == 31,
        within=20,
        describe="the policy",
    )
    assert stack.fleet.partition_row(1).policy.days_before_expiry == 31
    assert stack.fleet.partition_row(0).policy.grace_ms == before.grace_ms
    assert "did you mean grace_ms" in refused(stack.command("policy", "set", "grace=1"))
    assert "milliseconds" in refused(stack.command("policy", "set", "grace_ms=1m"))
    assert "true or false" in refused(stack.command("policy", "set", "anomaly_detection=1"))


# -- the command line itself --------------------------------------------------------------------


def test_a_mistyped_command_is_answered_with_the_right_one(stack: RunningStack) -> None:
    """Wrong usage is exit code 2, on one line."""
    assert "Did you mean 'device'?" in refused(stack.command("devcie"), 2)
    assert "fleetcert device show --help" in refused(stack.command("device", "show"), 2)


def test_kafka_away_is_one_line() -> None:
    """No traceback and no library's log: which address, and what to do."""
    (port,) = free_ports(1)
    done = subprocess.run(
        [PROGRAM, "device", "list", "--bootstrap", f"127.0.0.1:{port}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    line = refused(done)
    assert f"127.0.0.1:{port}" in line
    assert "fleetcert up" in line


def test_a_write_that_kafka_does_not_take_is_an_error(stack: RunningStack, tmp_path: Path) -> None:
    """A record counts as written once Kafka has acknowledged it, and never before."""
    (port,) = free_ports(1)
    pem = certificate(stack, tmp_path, "unheard-1").read_bytes()
    fleet = Fleet(f"127.0.0.1:{port}", timeouts=Timeouts(send_seconds=1.0))
    with pytest.raises(FleetError, match=r"unheard-1 for device\.events"):
        fleet.register("unheard-1", certificate=pem)


def test_device_ids_are_completed(stack: RunningStack, tmp_path: Path) -> None:
    """The shell asks the program, the program asks the topic."""
    registered(stack, tmp_path, "completed-1")
    asked = environment(
        stack,
        _FLEETCERT_COMPLETE="complete_bash",
        COMP_WORDS="fleetcert device show comple",
        COMP_CWORD="3",
    )
    done = subprocess.run(
        [PROGRAM], env=asked, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == ["completed-1"]
    script = subprocess.run(
        [PROGRAM, "--show-completion", "bash"],
        env=asked | {"_FLEETCERT_COMPLETE": "source_bash"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "complete" in script.stdout


@pytest.mark.parametrize("no_color", [False, True])
def test_colours_are_for_terminals(stack: RunningStack, tmp_path: Path, no_color: bool) -> None:
    """A terminal gets colours, unless NO_COLOR is set; a pipe never does."""
    name = f"coloured-{int(no_color)}"
    registered(stack, tmp_path, name)
    command = [PROGRAM, "device", "show", name]
    asked = environment(stack, TERM="xterm-256color", **({"NO_COLOR": "1"} if no_color else {}))
    ours, theirs = pty.openpty()
    done = subprocess.run(command, env=asked, stdout=theirs, stderr=theirs, timeout=60, check=False)
    os.close(theirs)
    drawn = b""
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        while part := _part(terminal.fileno()):
            drawn += part
    assert done.returncode == 0
    assert (b"\x1b[32m" in drawn) is not no_color
    assert "\x1b[" not in stack.command("device", "show", name).stdout


def _part(terminal: int) -> bytes:
    """Read from a pseudo-terminal; Linux raises EIO at its end."""
    try:
        return os.read(terminal, 65_536)
    except OSError:
        return b""
