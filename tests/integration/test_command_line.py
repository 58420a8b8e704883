"""`fleetcert` on a running stack: what an operator types, and what comes back."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
from confluent_kafka import Producer
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pki.profile import issue_device
from schemas import codec, topics
from tests.helpers.stack import RunningStack
from tests.helpers.wait import until


def registered(stack: RunningStack, directory: Path, device_id: str) -> None:
    """Register a device by the command line, and wait for its row."""
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    now = datetime.now(UTC)
    der = issue_device(stack.authorities, device_id, key, device_id, now, timedelta(days=90))
    pem = x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
    file = directory / f"{device_id}.pem"
    file.write_bytes(pem)
    done = stack.command("device", "register", device_id, "--cert", str(file))
    assert done.returncode == 0, done.stderr
    until(lambda: device_id in stack.fleet.devices(), within=20, describe=f"a row of {device_id}")


def test_status_shows_every_process_running(stack: RunningStack) -> None:
    """Each process of the stack is listed, running."""
    (status,) = stack.json("status")
    names = {one["name"] for one in status["processes"]}
    assert names == {"kafka", "mosquitto", "issuer", "bridge-0", "worker-0"}


def test_a_registered_device_is_listed_and_shown(stack: RunningStack, tmp_path: Path) -> None:
    """Register, list and show agree on a device."""
    registered(stack, tmp_path, "shown-1")
    listed = {one["device_id"] for one in stack.json("device", "list")}
    assert "shown-1" in listed
    (shown,) = stack.json("device", "show", "shown-1")
    assert shown["device"]["rotation"]["kind"] == "Idle"
    assert [one["name"] for one in shown["decisions"]] == ["DeviceAccepted"]
    assert "shown-1" in stack.command("device", "show", "shown-1").stdout


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
    done = stack.command("device", "show", "nobody")
    assert done.returncode == 1
    assert "no device 'nobody' is registered" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_bad_device_id_is_a_clear_error(stack: RunningStack, tmp_path: Path) -> None:
    """An id with a slash is refused before anything is sent."""
    file = tmp_path / "any.pem"
    file.write_bytes(b"-----BEGIN CERTIFICATE-----")
    done = stack.command("device", "register", "a/b", "--cert", str(file))
    assert done.returncode == 1
    assert "is no device id" in done.stderr


def test_the_history_is_exported_to_parquet(stack: RunningStack, tmp_path: Path) -> None:
    """Every record of a topic becomes one row, its offset beside it."""
    registered(stack, tmp_path, "exported-1")
    target = tmp_path / "events.parquet"
    done = stack.command("events", "export", str(target))
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(target).to_pylist()
    ours = [one for one in rows if one["key"] == "exported-1"]
    assert [one["kind"] for one in ours] == ["DeviceRegistered"]
    assert json.loads(ours[0]["record"])["device_id"] == "exported-1"


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
    done = stack.command("replay", "--verify")
    producer.produce(topics.DEVICE_STATE, whole, row.key, partition=row.partition)
    producer.flush()
    assert done.returncode == 4
    assert "altered-1: device_type is 'devise', replayed 'device'" in done.stdout
    assert stack.command("replay", "--verify").returncode == 0


def test_a_policy_change_is_recorded(stack: RunningStack) -> None:
    """`policy set` changes one field of every partition's policy and keeps the rest."""
    before = stack.fleet.partition_row(0).policy
    done = stack.command("policy", "set", "days_before_expiry=31")
    assert done.returncode == 0, done.stderr
    until(
        lambda: stack.fleet.partition_row(0).policy.days_before_expiry == 31,
        within=20,
        describe="the policy",
    )
    assert stack.fleet.partition_row(0).policy.grace_ms == before.grace_ms


def test_a_second_stack_on_the_same_data_is_refused(stack: RunningStack) -> None:
    """One supervisor per data directory: the second one says how to go on."""
    done = stack.command("up")
    assert done.returncode == 1
    assert "fleetcert down" in done.stderr
