"""Checks this machine for what the local stack needs, and says what to do where it is missing."""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from client.local import dtls13
from client.local.layout import Layout
from client.local.processes import listens

JAVA_MIN = 17
DISK_FREE_MIN_MIB = 1024
MEMORY_MIN_MIB = 2048
COMMAND_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what was found, and what to do where that is not enough."""

    name: str
    ok: bool
    found: str
    advice: str


def checks(layout: Layout) -> list[Check]:
    """Return all checks, in the order in which the stack needs them."""
    version = ".".join(str(one) for one in sys.version_info[:3])
    java = _java_version()
    return [
        Check("Python", sys.version_info >= (3, 11), version, "install Python 3.11 or newer"),
        Check("Java", java >= JAVA_MIN, str(java or "none"), _install("default-jre-headless")),
        _program("mvn", "maven"),
        _program("mosquitto", "mosquitto"),
        _program("gcc", "gcc"),
        _rust(),
        _file("/usr/include/mosquitto_plugin.h", "mosquitto-dev"),
        _file("/usr/include/mosquitto.h", "libmosquitto-dev"),
        _file("/usr/include/openssl/evp.h", "libssl-dev"),
        _file("/usr/include/cjson/cJSON.h", "libcjson-dev"),
        _file("/usr/include/uthash.h", "uthash-dev"),
        _disk(layout),
        _memory(),
        *_ports(layout),
    ]


def _install(package: str) -> str:
    return f"apt-get install {package}"


def _java_version() -> int:
    if shutil.which("java") is None:
        return 0
    done = subprocess.run(
        ["java", "-version"], capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
    )
    found = re.search(r'version "(\d+)', done.stderr + done.stdout)
    return int(found.group(1)) if found else 0


def _program(name: str, package: str) -> Check:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    return Check(name, found is not None, found or "none", _install(package))


def _file(path: str, package: str) -> Check:
    there = Path(path).exists()
    return Check(Path(path).name, there, path if there else "none", _install(package))


def _rust() -> Check:
    """Rust is wanted, not needed: without it nothing but DTLS 1.3 is missing."""
    version = ".".join(map(str, dtls13.rust_version()))
    found = version if version != "0" else "none: coaps+tcp alone, no DTLS 1.3"
    return Check("Rust", True, found, "")


def _disk(layout: Layout) -> Check:
    place = next(
        one for one in (layout.data_dir, *layout.data_dir.absolute().parents) if one.exists()
    )
    free = shutil.disk_usage(place).free >> 20
    return Check("free disk", free >= DISK_FREE_MIN_MIB, f"{free} MiB", "make room")


def _memory() -> Check:
    text = Path("/proc/meminfo").read_text()
    found = re.search(r"MemAvailable:\s+(\d+)", text)
    free = int(found.group(1)) >> 10 if found else 0
    return Check("memory", free >= MEMORY_MIN_MIB, f"{free} MiB", "close other programs")


def _ports(layout: Layout) -> list[Check]:
    return [
        Check(f"port {port}", not listens(port), name, f"stop its owner or choose {option}")
        for name, (port, option) in layout.ports().items()
    ]
