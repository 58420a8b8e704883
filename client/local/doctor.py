"""Checks this machine for what the local stack needs, and says what to do where it is missing.

`fleetcert doctor` shows all checks; `fleetcert up` demands those that a start depends on. What only
setup needs (Maven, a compiler, headers, Rust) counts while what it makes is not there yet.
"""

import ctypes
import errno
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from confluent_kafka import KafkaException

from bridges.mqtt.broker import build, release
from client.local import dtls13, kafka
from client.local.errors import LocalError
from client.local.layout import HOST, Layout
from configuration import look
from configuration.source import InvalidConfiguration
from pki import facts

JAVA_MIN = 17
MOSQUITTO_MIN = (2, 0, 0)
"""The first release with version 5 of the plugins' interface."""
PYTHON_MIN = (3, 11)
DISK_FREE_MIN_MIB = 1024
MEMORY_MIN_MIB = 2048
COMMAND_SECONDS = 20
CLOCK_BACK_SECONDS_MAX = 60
"""How far the clock may stand behind what it has already written."""
HEADERS = {
    "mosquitto_plugin.h": "mosquitto-dev",
    "mosquitto.h": "libmosquitto-dev",
    "openssl/evp.h": "libssl-dev",
    "cjson/cJSON.h": "libcjson-dev",
    "uthash.h": "uthash-dev",
}
"""Each header of the plugin's build, and the Debian package that has it."""
TIME_ERROR = 5
"""What adjtimex(2) returns while nothing keeps the clock."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what was found, and what to do where that is not enough.

    Without what is not `needed` the stack starts all the same; `found` says what it then lacks.
    """

    name: str
    ok: bool
    found: str
    advice: str
    needed: bool = True


def checks(layout: Layout, *, running: bool = False) -> list[Check]:
    """Return all checks, in the order in which the stack needs them.

    `running` tells that this layout's stack runs: the ports are its own then.
    """
    return [
        _python(),
        java(),
        _jars(layout),
        mosquitto(),
        *_plugin(layout),
        *_dtls13(),
        memory(),
        disk(layout),
        folder(layout),
        clock(layout, time.time()),
        *kafka_data(layout),
        *([] if layout.own_kafka else [their_kafka(layout)]),
        *([] if running else ports(layout)),
    ]


def before_start(layout: Layout) -> Iterable[Check]:
    """Yield what a start depends on, beside `folder`."""
    yield java()
    yield mosquitto()
    yield disk(layout)
    yield from kafka_data(layout) if layout.own_kafka else [their_kafka(layout)]
    yield from ports(layout)


def demand(found: Iterable[Check]) -> None:
    """Raise LocalError for the first check that fails and is needed."""
    for one in found:
        if one.needed and not one.ok:
            raise LocalError(f"{one.name}: {one.found}; {one.advice}")


def java(path: str | None = None) -> Check:
    """Look for a Java that runs Kafka, on `path` or the PATH."""
    program, version = shutil.which("java", path=path), 0
    found = "none on the PATH"
    if program is not None:
        said = _said([program, "-version"])
        match = re.search(r'version "(\d+)', said)
        version = int(match[1]) if match else 0
        found = f"version {version}" if match else f"{program} does not run: {said[-200:].strip()}"
    enough = version >= JAVA_MIN
    needs = "" if enough else f", Kafka {kafka.KAFKA_VERSION} needs {JAVA_MIN} or newer"
    advice = f"{_install('default-jre-headless')}, or put a newer one first on the PATH"
    return Check("Java", enough, found + needs, advice)


def mosquitto() -> Check:
    """Look for a mosquitto that takes the plugin."""
    program, there = release.program(), release.installed()
    text = ".".join(map(str, there))
    if program is None:
        found = "none on the PATH or in /usr/sbin"
    elif there == release.NONE:
        found = f"{program} does not tell its version"
    else:
        found = f"version {text}" + ("" if there >= MOSQUITTO_MIN else ", the plugin needs 2.0")
    return Check("mosquitto", there >= MOSQUITTO_MIN, found, _install("mosquitto"))


def disk(layout: Layout, least_mib: int = DISK_FREE_MIN_MIB) -> Check:
    """See that the data folder's volume has room."""
    free = shutil.disk_usage(_nearest(layout.data_dir)).free >> 20
    found = f"{free} MiB free for {layout.data_dir}"
    if free < least_mib:
        found += f", the stack wants {least_mib}"
    return Check("disk", free >= least_mib, found, "make room, or choose another --data-dir")


def memory(least_mib: int = MEMORY_MIN_MIB) -> Check:
    """See that there is memory for Kafka and the processes."""
    match = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())
    free = int(match[1]) >> 10 if match else 0
    found = f"{free} MiB available" + ("" if free >= least_mib else f", the stack uses {least_mib}")
    return Check("memory", free >= least_mib, found, "close other programs")


def folder(layout: Layout) -> Check:
    """See that the data folder, and what is in it, can be read and written by this user."""
    data_dir = layout.data_dir
    wrong = _unusable(data_dir if data_dir.exists() else _nearest(data_dir))
    if not wrong and data_dir.exists():
        wrong = next(filter(None, map(_unusable, sorted(data_dir.iterdir()))), "")
    advice = "run as its owner, give it to this user, or choose another --data-dir"
    return Check("data folder", not wrong, wrong or f"{data_dir} can be written", advice)


def kafka_data(layout: Layout) -> list[Check]:
    """See that Kafka's data, where there is any, is that of this stack's cluster."""
    try:
        wrong = kafka.objection(layout.kafka_dir / "data")
    except OSError as error:
        wrong = f"{error.filename}: {error.strerror}"
    found = wrong or f"{layout.kafka_dir / 'data'} is this stack's, or empty"
    advice = "put this stack's data back, or choose another --data-dir"
    return [Check("Kafka's data", not wrong, found, advice)]


def their_kafka(layout: Layout) -> Check:
    """See that the Kafka that the configuration names takes us, and each process of another name.

    Topics are made at the start.
    """
    kafka, who = layout.configuration.kafka, ""
    found, advice, ok = f"{layout.bootstrap} takes us, by {kafka.security_protocol}", "", True
    try:
        look.list_topics(layout.cluster)
        for who in kafka.users.named():
            look.list_topics(layout.configuration.of(who).cluster)
    except (look.Refused, InvalidConfiguration) as error:
        found, ok = f"{who and f'{who}: '}{error}", False
        advice = "docs/kafka.md has what each process needs"
    except KafkaException as error:
        found, ok = f"{layout.bootstrap} does not answer: {error.args[0].str()}", False
        advice = "start it, or see whether kafka.bootstrap is its address"
    return Check("your Kafka", ok, found, advice)


def clock(layout: Layout, now: float) -> Check:
    """See that the clock has not gone back, and that the authorities are valid by it."""
    device_ca = layout.pki_dir / "device-ca" / "ca.pem"
    written = [one for one in (Path(__file__), layout.status_file) if os.path.exists(one)]
    newest = max(one.stat().st_mtime for one in written)
    found = datetime.fromtimestamp(now, UTC).isoformat(" ", "seconds")
    found += "" if _kept() else ", kept by no time service"
    wrong = ""
    if now < newest - CLOCK_BACK_SECONDS_MAX:
        when = datetime.fromtimestamp(newest, UTC).isoformat(" ", "seconds")
        wrong = f", but something was written here at {when}"
    elif os.access(device_ca, os.R_OK):
        made = facts.facts(device_ca.read_bytes())
        if not made.not_before_at <= now * 1000 <= made.not_after_at:
            wrong = ", when the device CA is not valid"
    return Check("clock", not wrong, found + wrong, "set the clock; run a time service (NTP)")


def ports(layout: Layout) -> list[Check]:
    """See that each port of the layout is free."""
    found = []
    for name, (port, option) in layout.ports().items():
        datagrams = name in layout.DATAGRAMS
        wrong = _taken(port, socket.SOCK_DGRAM if datagrams else socket.SOCK_STREAM)
        said = f"{wrong}; it is for {name}" if wrong else name
        advice = f"stop its owner (`ss -lntup` names it), or choose {option}"
        found.append(Check(f"port {port}{'/udp' if datagrams else ''}", not wrong, said, advice))
    return found


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    enough = sys.version_info >= PYTHON_MIN
    return Check("Python", enough, version, "install Python 3.11 or newer, then `make setup`")


def _jars(layout: Layout) -> Check:
    """Kafka's jars; Maven fetches them once."""
    there = kafka.installed(layout.tools_dir) is not None
    maven = shutil.which("mvn") is not None
    found = f"{kafka.KAFKA_VERSION} is there" if there else "not fetched yet; `make setup` does it"
    if not there and not maven:
        found = "not fetched, and there is no Maven to do it"
    return Check("Kafka", there or maven, found, _install("maven"))


def _plugin(layout: Layout) -> list[Check]:
    """The broker's plugin; while it is not built, all that its build needs."""
    if build.library(layout.tools_dir).exists():
        return [Check("identity plugin", True, "built", "")]
    gcc = shutil.which("gcc")
    waiting = "not built yet; `make setup` does it"
    return [
        Check("identity plugin", False, waiting, "make setup", needed=False),
        Check("gcc", gcc is not None, gcc or "none", _install("gcc")),
        *(
            Check(name, there, "there" if there else "none in /usr/include", _install(package))
            for name, package in HEADERS.items()
            for there in (Path("/usr/include", name).exists(),)
        ),
    ]


def _dtls13() -> list[Check]:
    """DTLS 1.3 is wanted, not needed: without it CoAP goes over coaps+tcp."""
    if dtls13.installed():
        return [Check("DTLS 1.3", True, "built", "", needed=False)]
    version = dtls13.rust_version()
    text = "none" if version == (0,) else ".".join(map(str, version))
    least = ".".join(map(str, dtls13.RUST_MIN))
    return [
        Check("DTLS 1.3", False, "not built: CoAP over coaps+tcp alone", "make setup", False),
        Check("Rust", version >= dtls13.RUST_MIN, text, f"install {least} or newer", False),
    ]


def _install(package: str) -> str:
    return f"apt-get install {package}"


def _said(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stderr + done.stdout


def _nearest(path: Path) -> Path:
    """Return the path, or the first of its parents that exists."""
    return next(one for one in (path, *path.absolute().parents) if one.exists())


def _unusable(path: Path) -> str:
    """Return why this user cannot read and write the path, "" where nothing is wrong."""
    wanted = os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0)
    if not os.access(path, wanted):
        return f"{path} cannot be read and written by this user (its owner is {_owner(path)})"
    if not path.is_dir():
        return ""
    try:
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        return f"{path} cannot be written: {error.strerror}"
    return ""


def _owner(path: Path) -> str:
    try:
        return path.owner()
    except KeyError:
        return str(path.stat().st_uid)


def _kept() -> bool:
    """Tell whether a time service keeps the clock, by the kernel's word (adjtimex(2))."""
    return bool(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)) != TIME_ERROR)


def _taken(port: int, kind: socket.SocketKind) -> str:
    """Return why nothing of ours could listen there, "" where the port is free."""
    with socket.socket(type=kind) as probe:
        if kind == socket.SOCK_STREAM:  # as servers do: a connection that ended lately is no owner
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OverflowError:
            return "no port, they end at 65535"
        except OSError as error:
            return "taken" if error.errno == errno.EADDRINUSE else str(error.strerror)
    return ""
